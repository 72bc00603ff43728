// All state of one vCPU, read whole and loaded whole, as the kernel's own structs. How it is stored
// is the business of formats/ and snapshot/.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "vmm/kvm.h"

namespace volt::vmm {

struct CpuState {
  kvm_regs regs = {};
  kvm_sregs sregs = {};
  std::vector<std::byte> xsave;
  kvm_xcrs xcrs = {};
  kvm_debugregs debugregs = {};
  kvm_vcpu_events events = {};
  std::vector<kvm_msr_entry> msrs;  // every MSR of KVM's list that this vCPU lets us read
  kvm_mp_state mp_state = {};
  std::vector<kvm_cpuid_entry2> cpuid;
  std::optional<kvm_lapic_state> lapic = {};  // if the VM has KVM's interrupt controllers
};

// What reading a state needs to know about the host.
struct StateSources {
  std::size_t xsave_bytes;
  std::vector<std::uint32_t> msr_indices;
  bool lapic = false;

  static Result<StateSources> probe(const Kvm& kvm);
};

// The vCPU must have finished what it was doing (Machine::quiesce).
Result<CpuState> save_state(const Vcpu& vcpu, const StateSources& sources);

// Into a vCPU that has not run yet. An MSR the host refuses is an error, unless it holds the wanted
// value already (hosts list MSRs that cannot be set, such as ARCH_CAPABILITIES on nested ones).
Result<> load_state(Vcpu& vcpu, const CpuState& state);

}  // namespace volt::vmm
