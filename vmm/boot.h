// Boots a micro guest to its ready point: what a restore replaces.
#pragma once

#include <cstdint>
#include <memory>

#include "vmm/guest_image.h"
#include "vmm/machine.h"

namespace volt::vmm {

struct BootConfig {
  guest_abi::Workload workload = guest_abi::Workload::kKv;
  std::uint64_t ram_bytes = 0;
  std::uint64_t working_set_bytes = 0;
  std::uint64_t seed = 0;
};

// Microseconds each part of a boot took.
struct BootPhases {
  std::uint64_t vm_us = 0;      // VM, window, vCPU
  std::uint64_t memory_us = 0;  // RAM, the image copied into it, its slots
  std::uint64_t state_us = 0;   // registers and identity
  std::uint64_t run_us = 0;     // the guest, from its first instruction to READY
  std::uint64_t total_us() const { return vm_us + memory_us + state_us + run_us; }
};

struct Booted {
  std::unique_ptr<Machine> machine;
  guest_abi::ReadyInfo ready;  // checked: inside RAM, as large as was asked for
  BootPhases phases;
};

Result<Booted> boot(const Kvm& kvm, const GuestImage& image, const BootConfig& config,
                    Deadline deadline);

}  // namespace volt::vmm
