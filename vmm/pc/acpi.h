// The tables by which a kernel finds the machine: root pointer, XSDT, FADT, MADT, and a DSDT with
// the serial port, the virtio devices, the power button and the generation's place. The machine is
// a "hardware-reduced" one: no fixed registers, no PIT, no PIC, no RTC to probe for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace volt::pc {

struct AcpiMachine {
  std::uint32_t cpus = 1;
  std::uint32_t virtio_devices = 0;  // at layout.h's places, in order
  // A guest told of an i8042 probes it for keyboards, which takes it a second or so.
  bool keyboard = false;
};

// The bytes from layout.h's kAcpi on; the root pointer comes first.
std::vector<std::byte> acpi_tables(const AcpiMachine& machine);

}  // namespace volt::pc
