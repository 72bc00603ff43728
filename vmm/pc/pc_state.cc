#include "vmm/pc/pc_state.h"

#include <algorithm>
#include <string>

#include "vmm/identity.h"
#include "vmm/pc/pc.h"
#include "vmm/tsc.h"

namespace volt::pc {
namespace {

constexpr std::uint32_t kTscMsr = 0x10;

// One TSC for all CPUs, so that KVM takes them for synchronous, and none goes back. (They were read
// one after the other.)
void align_tscs(std::vector<vmm::CpuState>& cpus) {
  std::uint64_t latest = 0;
  for (const vmm::CpuState& cpu : cpus) {
    for (const kvm_msr_entry& msr : cpu.msrs) {
      if (msr.index == kTscMsr) latest = std::max<std::uint64_t>(latest, msr.data);
    }
  }
  for (vmm::CpuState& cpu : cpus) {
    for (kvm_msr_entry& msr : cpu.msrs) {
      if (msr.index == kTscMsr) msr.data = latest;
    }
  }
}

}  // namespace

Result<> Pc::match_tsc(const vmm::Kvm& kvm, std::uint64_t khz) {
  const std::uint64_t host_khz = VOLT_TRY(vm_.get_tsc_khz());
  if (vmm::is_same_tsc(khz, host_khz)) return {};
  const bool scales = VOLT_TRY(kvm.check_extension(KVM_CAP_TSC_CONTROL)) > 0;
  if (khz == 0 || !scales) {
    return fail(Code::kUnsupported, "its TSC ran at " + std::to_string(khz) +
                                        " kHz, this host's at " + std::to_string(host_khz) +
                                        ", which KVM cannot scale here");
  }
  for (const auto& cpu : cpus_) VOLT_TRY(cpu->vcpu.set_tsc_khz(khz));
  scaled_tsc_khz_ = khz;
  return {};
}

Result<std::uint64_t> Pc::tsc_khz() const {
  if (scaled_tsc_khz_) return *scaled_tsc_khz_;
  return vm_.get_tsc_khz();
}

Result<PcState> Pc::save(const vmm::Kvm& kvm) const {
  PcState state;
  vmm::StateSources sources = VOLT_TRY(vmm::StateSources::probe(kvm));
  sources.lapic = true;
  for (const auto& cpu : cpus_) {
    state.cpus.push_back(VOLT_TRY(vmm::save_state(cpu->vcpu, sources)));
  }
  align_tscs(state.cpus);
  const kvm_irqchip chip = VOLT_TRY(vm_.get_irqchip(KVM_IRQCHIP_IOAPIC));
  state.io_apic = chip.chip.ioapic;
  const kvm_clock_data clock = VOLT_TRY(vm_.get_clock());
  state.clock_ns = clock.clock;
  state.serial = serial_.save();
  state.events = power_.pending();
  for (const auto& device : virtio_) state.virtio.push_back(VOLT_TRY(device->save()));
  return state;
}

// Before 6.7 KVM takes a write to the first CPU's counter that is within a second of what it shows
// for the wish to leave it as it is: a guest captured in its first second would go back in time.
// After one that is far from both it does as it is told.
Result<> Pc::forget_tsc() {
  constexpr std::uint64_t kFar = std::uint64_t{1} << 62;
  const kvm_msr_entry tsc = {.index = kTscMsr, .data = kFar};
  const std::size_t set = VOLT_TRY(cpus_[0]->vcpu.set_msrs(std::span(&tsc, 1)));
  if (set == 1) return {};
  return fail(Code::kHostUnable, "KVM does not set the time stamp counter");
}

// The clock before the CPUs: a CPU's clock page is written from it when its MSRs are loaded.
Result<> Pc::load(const PcState& state) {
  if (state.cpus.size() != cpus_.size() || state.virtio.size() != virtio_.size()) {
    return fail(Code::kInvalid, "the state of a machine with other CPUs or devices");
  }
  kvm_irqchip chip = {};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  chip.chip.ioapic = state.io_apic;
  VOLT_TRY(vm_.set_irqchip(chip));
  VOLT_TRY(vm_.set_clock({.clock = state.clock_ns}));
  VOLT_TRY(forget_tsc());
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    if (!state.cpus[i].lapic) return fail(Code::kInvalid, "a CPU without its local APIC");
    VOLT_TRY(vmm::load_state(cpus_[i]->vcpu, state.cpus[i]));
  }
  serial_.load(state.serial);
  power_.set_pending(state.events);
  for (std::size_t i = 0; i < virtio_.size(); ++i) {
    virtio_[i]->pause();
    VOLT_TRY(virtio_[i]->load(state.virtio[i]));
  }
  return {};
}

Result<ClockSample> Pc::sample_clocks() const {
  ClockSample sample = {};
  sample.tsc_khz = VOLT_TRY(tsc_khz());
  kvm_msr_entry tsc = {.index = kTscMsr};
  const std::uint64_t before_ns = vmm::wall_clock_ns();
  const std::size_t got = VOLT_TRY(cpus_[0]->vcpu.get_msrs(std::span(&tsc, 1)));
  if (got != 1) return fail(Code::kHostUnable, "KVM does not tell the time stamp counter");
  sample.tsc = tsc.data;
  sample.wall_ns = before_ns + (vmm::wall_clock_ns() - before_ns) / 2;
  return sample;
}

}  // namespace volt::pc
