// All of a PC that is neither memory nor behind a device's registers on this host: what a snapshot
// keeps besides memory.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/cpu_state.h"
#include "vmm/pc/serial.h"
#include "vmm/virtio/mmio.h"

namespace volt::pc {

struct PcState {
  std::vector<vmm::CpuState> cpus;  // each with its local APIC
  kvm_ioapic_state io_apic = {};
  std::uint64_t clock_ns = 0;  // kvm-clock, by which the guest's monotonic clock goes
  SerialState serial;
  std::uint8_t events = 0;  // of power.h, announced and not read yet
  std::vector<virtio::MmioState> virtio;
};

}  // namespace volt::pc
