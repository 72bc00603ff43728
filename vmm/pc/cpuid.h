// What a Linux guest's CPUs say they are, and why it differs from what KVM offers:
//   - each CPU has its own APIC id, and all sit in one package without shared threads;
//   - the TSC-deadline timer is there, since the machine has no PIT to calibrate another one by;
//   - the TSC is not called invariant, so that a kernel prefers kvm-clock, which survives a restore
//     on a host with another TSC;
//   - no PMU and no asynchronous page faults: state of the host that no snapshot can carry, and a
//     guest that waits for a page "ready" which was announced to the VM it was cloned from.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/kvm_abi.h"
#include "vmm/os/error.h"

namespace volt::pc {

enum class CpuTemplate {
  kHost,      // all that KVM can give on this host
  kPortable,  // what x86-64-v3 CPUs of this vendor have in common
};
const char* cpu_template_name(CpuTemplate which);
Result<CpuTemplate> parse_cpu_template(std::string_view name);

// For CPU `id` of `cpus`, from what KVM supports.
std::vector<kvm_cpuid_entry2> cpuid_of(std::span<const kvm_cpuid_entry2> supported,
                                       CpuTemplate which, std::uint32_t id, std::uint32_t cpus);

}  // namespace volt::pc
