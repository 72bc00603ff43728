#include "snapshot/compatibility.h"

#include <cpuid.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <optional>

#include "snapshot/cpu_features.h"
#include "snapshot/state_codec.h"
#include "vmm/agent_abi.h"
#include "vmm/pc/cpuid.h"
#include "vmm/tsc.h"

namespace volt::snapshot {
namespace {

using formats::v1::Compatibility;

// What a micro guest needs of a CPU: the x86-64 baseline. Any CPU that runs this very program has
// it, so there is nothing to ask (and CPUID traps to a hypervisor: 7 us here).
constexpr const char* kBaseline[] = {"fpu", "fxsr", "sse", "sse2"};

// What a PC is built with, besides; manifests have them in ascending order.
constexpr std::uint32_t kPcCapabilities[] = {KVM_CAP_IRQCHIP, KVM_CAP_IRQFD, KVM_CAP_ADJUST_CLOCK,
                                             KVM_CAP_TSC_DEADLINE_TIMER};
static_assert(std::ranges::is_sorted(kPcCapabilities) &&
              std::ranges::max(kPcCapabilities) < KVM_CAP_SYNC_REGS);

// Their names in KVM's documentation.
std::string capability_name(std::uint32_t capability) {
  const auto named = [&](const char* name) { return std::to_string(capability) + " " + name; };
  switch (capability) {
    case KVM_CAP_IRQCHIP:
      return named("(KVM_CAP_IRQCHIP)");
    case KVM_CAP_IRQFD:
      return named("(KVM_CAP_IRQFD)");
    case KVM_CAP_ADJUST_CLOCK:
      return named("(KVM_CAP_ADJUST_CLOCK)");
    case KVM_CAP_TSC_DEADLINE_TIMER:
      return named("(KVM_CAP_TSC_DEADLINE_TIMER)");
    case KVM_CAP_SYNC_REGS:
      return named("(KVM_CAP_SYNC_REGS)");
    default:
      return std::to_string(capability);
  }
}

std::string hex(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%x", value);
  return text;
}

bool host_has(const std::string& feature) {
  return std::find(std::begin(kBaseline), std::end(kBaseline), feature) != std::end(kBaseline);
}

std::string host_kvm_vendor() {
  for (const char* module : {"kvm_intel", "kvm_amd", "kvm_pvm"}) {
    if (::access((std::string("/sys/module/") + module).c_str(), F_OK) == 0) return module;
  }
  return "kvm";
}

std::string host_cpu_vendor() {
  unsigned eax = 0, text[3] = {};
  if (__get_cpuid(0, &eax, &text[0], &text[2], &text[1]) == 0) return "unknown";
  return std::string(reinterpret_cast<const char*>(text), sizeof text);
}

std::uint32_t host_cpu_signature() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  return eax;
}

std::string host_kernel() {
  utsname name = {};
  ::uname(&name);
  return name.release;
}

// Feature bits the snapshot's guest was shown and this host does not have.
Result<std::vector<Difference>> missing_features(const formats::MachineState& state,
                                                 const vmm::Kvm& kvm) {
  std::vector<kvm_cpuid_entry2> host = VOLT_TRY(kvm.get_supported_cpuid());
  // A PC has features that KVM gives it without listing them, such as its APIC's timer.
  if (state.has_pc()) {
    const auto cpus = static_cast<std::uint32_t>(state.vcpus_size());
    host = pc::cpuid_of(host, pc::CpuTemplate::kHost, 0, cpus);
  }
  std::vector<Difference> missing;
  for (const LostFeatures& lost : lost_features(cpuid_from(state.vcpus(0)), host)) {
    missing.push_back(
        {lost.word, "needs " + lost.names + " (" + hex(lost.bits) + ")", "lacks it", true});
  }
  return missing;
}

// What can be told without making a VM.
Result<std::vector<Difference>> differences_at_rest(const formats::Manifest& manifest,
                                                    const formats::MachineState& state,
                                                    const vmm::Kvm& kvm) {
  const Compatibility& need = manifest.compatibility();
  std::vector<Difference> differences;
  for (const std::string& feature : need.cpu_features()) {
    if (!host_has(feature)) differences.push_back({"cpu feature", feature, "absent", true});
  }
  for (const std::uint32_t capability : need.kvm_capabilities()) {
    if (VOLT_TRY(kvm.check_extension(static_cast<int>(capability))) <= 0) {
      differences.push_back({"kvm capability", capability_name(capability), "absent", true});
    }
  }
  // Of a guest that has one; what was captured before it was written down shows when it answers.
  const std::uint32_t protocol = manifest.guest().agent_protocol();
  if (protocol != 0 && protocol != agent_abi::kVersion) {
    differences.push_back({"agent protocol", std::to_string(protocol),
                           std::to_string(agent_abi::kVersion) + " in this volt", true});
  }
  const bool exact = need.exact_state();
  const auto differs = [&](const char* field, const std::string& there, const std::string& here,
                           bool prevents) {
    if (there != here) differences.push_back({field, there, here, prevents});
  };
  differs("cpu vendor", need.cpu_vendor(), host_cpu_vendor(), exact);
  differs("kvm vendor", need.kvm_vendor(), host_kvm_vendor(), exact);
  differs("cpu signature", std::to_string(need.cpu_signature()),
          std::to_string(host_cpu_signature()), false);
  differs("kernel", need.kernel_release(), host_kernel(), false);
  if (exact) {
    for (Difference& each : VOLT_TRY(missing_features(state, kvm))) {
      differences.push_back(std::move(each));
    }
    const std::vector<std::uint32_t> has = VOLT_TRY(kvm.get_msr_index_list());
    for (const std::uint32_t msr : need.msrs()) {
      if (std::find(has.begin(), has.end(), msr) == has.end()) {
        differences.push_back({"msr", hex(msr), "absent", true});
      }
    }
  }
  return differences;
}

// A guest that counts with its TSC goes on only where that keeps its frequency.
Result<std::optional<Difference>> other_tsc(const Compatibility& need, const vmm::Kvm& kvm) {
  const vmm::Vm vm = VOLT_TRY(kvm.create_vm());
  const std::uint64_t host_khz = VOLT_TRY(vm.get_tsc_khz());
  if (vmm::is_same_tsc(need.tsc_khz(), host_khz)) return std::nullopt;
  const bool scales = VOLT_TRY(kvm.check_extension(KVM_CAP_TSC_CONTROL)) > 0;
  return Difference{"tsc khz", std::to_string(need.tsc_khz()),
                    std::to_string(host_khz) + (scales ? ", scaled by KVM" : ", not scalable"),
                    !scales};
}

}  // namespace

Compatibility describe_host(const formats::MachineState& state, std::uint64_t tsc_khz) {
  Compatibility host;
  host.set_kvm_vendor(host_kvm_vendor());
  host.set_cpu_vendor(host_cpu_vendor());
  host.set_cpu_signature(host_cpu_signature());
  host.set_kernel_release(host_kernel());
  host.set_tsc_khz(tsc_khz);
  for (const char* feature : kBaseline) host.add_cpu_features(feature);
  if (state.has_pc()) {
    for (const std::uint32_t capability : kPcCapabilities) host.add_kvm_capabilities(capability);
  }
  host.add_kvm_capabilities(KVM_CAP_SYNC_REGS);
  host.set_exact_state(!state.has_resume());
  if (host.exact_state()) {
    std::vector<std::uint32_t> msrs;
    for (const auto& msr : state.vcpus(0).msrs()) msrs.push_back(msr.index());
    std::sort(msrs.begin(), msrs.end());
    for (const std::uint32_t msr : msrs) host.add_msrs(msr);
  }
  return host;
}

Result<std::vector<Difference>> compare(const formats::Manifest& manifest,
                                        const formats::MachineState& state, const vmm::Kvm& kvm) {
  std::vector<Difference> differences = VOLT_TRY(differences_at_rest(manifest, state, kvm));
  if (state.has_pc()) {
    auto tsc = VOLT_TRY(other_tsc(manifest.compatibility(), kvm));
    if (tsc) differences.push_back(*std::move(tsc));
  }
  std::vector<Difference> ordered;
  for (const bool prevents : {true, false}) {
    std::ranges::copy_if(differences, std::back_inserter(ordered),
                         [prevents](const Difference& each) { return each.prevents == prevents; });
  }
  return ordered;
}

Result<> require_compatible(const formats::Manifest& manifest, const formats::MachineState& state,
                            const vmm::Kvm& kvm) {
  const Compatibility& need = manifest.compatibility();
  const bool only_baseline =
      !need.exact_state() && need.kvm_capabilities_size() == 1 &&
      need.kvm_capabilities(0) == KVM_CAP_SYNC_REGS &&  // Kvm::open() insists on it
      std::all_of(need.cpu_features().begin(), need.cpu_features().end(), host_has);
  if (only_baseline) return {};
  const auto differences = VOLT_TRY(differences_at_rest(manifest, state, kvm));
  const auto first = std::ranges::find_if(differences, &Difference::prevents);
  if (first == differences.end()) return {};
  return fail(Code::kUnsupported, "this host cannot restore it: " + first->field +
                                      ": the snapshot has " + first->snapshot + ", this host " +
                                      first->host);
}

}  // namespace volt::snapshot
