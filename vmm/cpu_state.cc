#include "vmm/cpu_state.h"

#include <algorithm>
#include <cstdio>

namespace volt::vmm {
namespace {

Result<std::vector<kvm_msr_entry>> read_msrs(const Vcpu& vcpu,
                                             const std::vector<std::uint32_t>& indices) {
  std::vector<kvm_msr_entry> wanted(indices.size());
  std::transform(indices.begin(), indices.end(), wanted.begin(),
                 [](std::uint32_t index) { return kvm_msr_entry{.index = index}; });
  std::vector<kvm_msr_entry> got;
  for (std::size_t next = 0; next < wanted.size();) {
    const auto rest = std::span(wanted).subspan(next);
    const std::size_t handled = VOLT_TRY(vcpu.get_msrs(rest));
    got.insert(got.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(handled));
    // A short answer names the first MSR this vCPU does not have by where it stopped.
    next += std::max<std::size_t>(handled, 1);
  }
  return got;
}

Result<> load_msrs(Vcpu& vcpu, std::span<const kvm_msr_entry> msrs) {
  while (!msrs.empty()) {
    const std::size_t handled = VOLT_TRY(vcpu.set_msrs(msrs));
    msrs = msrs.subspan(handled);
    if (msrs.empty()) break;
    if (handled != 0) continue;
    kvm_msr_entry now[1] = {{.index = msrs[0].index}};
    const std::size_t readable = VOLT_TRY(vcpu.get_msrs(now));
    if (readable != 1 || now[0].data != msrs[0].data) {
      char text[80];
      std::snprintf(text, sizeof text, "KVM_SET_MSRS: MSR 0x%x cannot be set to 0x%llx here",
                    msrs[0].index, msrs[0].data);
      return fail(Code::kUnsupported, text);
    }
    msrs = msrs.subspan(1);
  }
  return {};
}

}  // namespace

Result<StateSources> StateSources::probe(const Kvm& kvm) {
  const int xsave2 = VOLT_TRY(kvm.check_extension(KVM_CAP_XSAVE2));
  return StateSources{
      .xsave_bytes = std::max(sizeof(kvm_xsave), static_cast<std::size_t>(xsave2)),
      .msr_indices = VOLT_TRY(kvm.get_msr_index_list()),
  };
}

Result<CpuState> save_state(const Vcpu& vcpu, const StateSources& sources) {
  CpuState state;
  // First: it may take in an INIT or SIPI that waits, which changes the registers.
  state.mp_state = VOLT_TRY(vcpu.get_mp_state());
  state.regs = VOLT_TRY(vcpu.get_regs());
  state.sregs = VOLT_TRY(vcpu.get_sregs());
  state.xsave = VOLT_TRY(vcpu.get_xsave(sources.xsave_bytes));
  state.xcrs = VOLT_TRY(vcpu.get_xcrs());
  state.debugregs = VOLT_TRY(vcpu.get_debugregs());
  state.events = VOLT_TRY(vcpu.get_vcpu_events());
  state.msrs = VOLT_TRY(read_msrs(vcpu, sources.msr_indices));
  state.cpuid = VOLT_TRY(vcpu.get_cpuid2());
  if (sources.lapic) state.lapic = VOLT_TRY(vcpu.get_lapic());
  return state;
}

// CPUID first, since it decides which values are legal; XCRs before the XSAVE area they enable;
// the local APIC after its base and before the MSRs that start its timer; MSRs after the special
// registers (EFER, APIC base); events last, as loading registers clears them.
Result<> load_state(Vcpu& vcpu, const CpuState& state) {
  VOLT_TRY(vcpu.set_cpuid2(state.cpuid));
  VOLT_TRY(vcpu.set_sregs(state.sregs));
  VOLT_TRY(vcpu.set_xcrs(state.xcrs));
  VOLT_TRY(vcpu.set_xsave(state.xsave));
  VOLT_TRY(vcpu.set_regs(state.regs));
  if (state.lapic) VOLT_TRY(vcpu.set_lapic(*state.lapic));
  VOLT_TRY(load_msrs(vcpu, state.msrs));
  VOLT_TRY(vcpu.set_debugregs(state.debugregs));
  VOLT_TRY(vcpu.set_mp_state(state.mp_state));
  return vcpu.set_vcpu_events(state.events);
}

}  // namespace volt::vmm
