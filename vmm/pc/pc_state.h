// All of a PC that is neither memory nor behind a device's registers on this host: what a snapshot
// keeps besides memory.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/cpu_state.h"
#include "vmm/pc/serial.h"
#include "vmm/virtio/mmio.h"

namespace volt::pc {

// What a CPU and the host have at one moment: by it a guest knows the time however late it asks.
struct ClockSample {
  std::uint64_t tsc;  // of CPU 0
  std::uint64_t tsc_khz;
  std::uint64_t wall_ns;
};

struct PcState {
  std::vector<vmm::CpuState> cpus;  // each with its local APIC
  kvm_ioapic_state io_apic = {};
  // kvm-clock, by which the guest's monotonic clock goes, as the CPUs' counters show what they do.
  std::uint64_t clock_ns = 0;
  SerialState serial;
  std::uint8_t events = 0;  // of power.h, announced and not read yet
  std::vector<virtio::MmioState> virtio;
};

}  // namespace volt::pc
