#include "vmm/pc/pc_state.h"

#include <algorithm>
#include <string>

#include "vmm/identity.h"
#include "vmm/pc/pc.h"
#include "vmm/tsc.h"

namespace volt::pc {
namespace {

constexpr std::uint32_t kTscMsr = 0x10;

Result<std::uint64_t> tsc_of(const vmm::CpuState& cpu) {
  for (const kvm_msr_entry& msr : cpu.msrs) {
    if (msr.index == kTscMsr) return msr.data;
  }
  return fail(Code::kInvalid, "a CPU without its time stamp counter");
}

// One TSC for all CPUs, so that KVM takes them for synchronous, and none goes back. (They were read
// one after the other.) Returns it.
Result<std::uint64_t> align_tscs(std::vector<vmm::CpuState>& cpus) {
  std::uint64_t latest = 0;
  for (const vmm::CpuState& cpu : cpus) {
    const std::uint64_t one = VOLT_TRY(tsc_of(cpu));
    latest = std::max(latest, one);
  }
  for (vmm::CpuState& cpu : cpus) {
    for (kvm_msr_entry& msr : cpu.msrs) {
      if (msr.index == kTscMsr) msr.data = latest;
    }
  }
  return latest;
}

constexpr std::uint64_t ns_of(std::uint64_t ticks, std::uint64_t khz) {
  return ticks / khz * 1'000'000 + ticks % khz * 1'000'000 / khz;
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
  const std::uint64_t tsc = VOLT_TRY(align_tscs(state.cpus));
  state.clock_ns = VOLT_TRY(clock_at(tsc));
  const kvm_irqchip chip = VOLT_TRY(vm_.get_irqchip(KVM_IRQCHIP_IOAPIC));
  state.io_apic = chip.chip.ioapic;
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

Result<std::uint64_t> Pc::read_tsc() const {
  kvm_msr_entry tsc = {.index = kTscMsr};
  const std::size_t got = VOLT_TRY(cpus_[0]->vcpu.get_msrs(std::span(&tsc, 1)));
  if (got == 1) return tsc.data;
  return fail(Code::kHostUnable, "KVM does not tell the time stamp counter");
}

// A guest's kernel compares its counter with kvm-clock and gives up the one that strays by some
// 100 us. So they are saved and loaded as of one moment, though they are read one after the other
// and go on meanwhile.
Result<std::uint64_t> Pc::clock_at(std::uint64_t tsc) const {
  const std::uint64_t khz = VOLT_TRY(tsc_khz());
  const std::uint64_t before = VOLT_TRY(read_tsc());
  const kvm_clock_data clock = VOLT_TRY(vm_.get_clock());
  const std::uint64_t after = VOLT_TRY(read_tsc());
  const std::uint64_t then = before + (after - before) / 2;
  return tsc < then ? clock.clock - ns_of(then - tsc, khz) : clock.clock + ns_of(tsc - then, khz);
}

Result<> Pc::set_clock_at(std::uint64_t tsc, std::uint64_t clock_ns) {
  const std::uint64_t khz = VOLT_TRY(tsc_khz());
  const std::uint64_t now = VOLT_TRY(read_tsc());
  if (now < tsc) {
    return fail(Code::kHostUnable, "KVM does not set the time stamp counter to " +
                                       std::to_string(tsc) + ": it is " + std::to_string(now));
  }
  return vm_.set_clock({.clock = clock_ns + ns_of(now - tsc, khz)});
}

Result<> Pc::load(const PcState& state) {
  if (state.cpus.size() != cpus_.size() || state.virtio.size() != virtio_.size()) {
    return fail(Code::kInvalid, "the state of a machine with other CPUs or devices");
  }
  kvm_irqchip chip = {};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  chip.chip.ioapic = state.io_apic;
  VOLT_TRY(vm_.set_irqchip(chip));
  VOLT_TRY(forget_tsc());
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    if (!state.cpus[i].lapic) return fail(Code::kInvalid, "a CPU without its local APIC");
    VOLT_TRY(vmm::load_state(cpus_[i]->vcpu, state.cpus[i]));
  }
  const std::uint64_t tsc = VOLT_TRY(tsc_of(state.cpus[0]));
  VOLT_TRY(set_clock_at(tsc, state.clock_ns));
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
  const std::uint64_t before_ns = vmm::wall_clock_ns();
  sample.tsc = VOLT_TRY(read_tsc());
  sample.wall_ns = before_ns + (vmm::wall_clock_ns() - before_ns) / 2;
  return sample;
}

}  // namespace volt::pc
