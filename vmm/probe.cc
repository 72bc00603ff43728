#include "vmm/probe.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "vmm/boot.h"
#include "vmm/identity.h"

namespace volt::vmm {
namespace {

constexpr std::uint64_t kCodeAt = 0x1000;
constexpr std::uint64_t kRamBytes = 2 << 20;
constexpr std::uint16_t kPort = guest_abi::kPortDone;
// One emulated instruction takes 0.5 us and more, one native instruction a fraction of a ns:
// between them lies room for any slow machine, and where every ring is slow none is emulated by
// itself.
constexpr double kEmulatedNs = 50;
constexpr double kEmulatedTimes = 20;
constexpr std::uint32_t kRing0Turns = 2'000;
constexpr std::uint64_t kProbeMs = 5'000;

// mov edx, port; out dx, eax; dec ecx; jnz back to itself; out dx, eax; hlt
// The first OUT starts the clock, the second stops it.
constexpr std::array<std::uint8_t, 14> kLoop = {
    0xBA, kPort & 0xFF, kPort >> 8, 0, 0, 0xEF, 0xFF, 0xC9, 0x75, 0xFC, 0xEF, 0xF4, 0xF4, 0xF4};

kvm_segment flat_ring0(std::uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xFFFF'FFFF;
  segment.type = type;
  segment.selector = 8;
  segment.present = segment.db = segment.s = segment.g = 1;
  return segment;
}

// Protected mode without paging: the least state that ring 0 needs.
kvm_sregs ring0_sregs() {
  kvm_sregs sregs = {};
  sregs.cs = flat_ring0(0xB);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat_ring0(0x3);
  sregs.tr.type = 0xB;
  sregs.tr.present = 1;
  sregs.tr.limit = 0x67;
  sregs.ldt.unusable = 1;
  sregs.cr0 = 0x11;  // PE, ET
  sregs.apic_base = 0xFEE0'0900;
  return sregs;
}

Result<double> time_ring0(const Kvm& kvm) {
  const std::vector<RegionLayout> layout = VOLT_TRY(ram_layout(kRamBytes));
  GuestMemory memory = VOLT_TRY(GuestMemory::anonymous(layout));
  VOLT_TRY(memory.write(kCodeAt, std::as_bytes(std::span(kLoop))));
  const std::unique_ptr<Machine> machine = VOLT_TRY(Machine::build(kvm, 1));
  VOLT_TRY(machine->attach_memory(std::move(memory)));
  kvm_regs regs = {};
  regs.rip = kCodeAt;
  regs.rcx = kRing0Turns;
  regs.rflags = 2;
  machine->start(regs, ring0_sregs());
  const Deadline deadline = Deadline::in_ms(kProbeMs);
  VOLT_TRY(machine->run(deadline));
  const std::uint64_t from = monotonic_clock_ns();
  VOLT_TRY(machine->run(deadline));
  return static_cast<double>(monotonic_clock_ns() - from) / kRing0Turns;
}

// The micro guest runs in ring 3 only: filling a working set is its loop.
Result<double> time_ring3(const Kvm& kvm, const GuestImage& image) {
  constexpr std::uint64_t kWorkingSet = 1 << 20;
  const Deadline deadline = Deadline::in_ms(kProbeMs);
  const Booted booted = VOLT_TRY(boot(kvm, image,
                                      {.workload = guest_abi::Workload::kKv,
                                       .ram_bytes = 16 << 20,
                                       .working_set_bytes = kWorkingSet},
                                      deadline));
  constexpr double kTurns = kWorkingSet / 8.0;
  return static_cast<double>(booted.phases.run_us) * 1000 / kTurns;
}

// The least of some: whatever else this host does makes one longer, never shorter.
template <typename Time>
Result<double> least(const Time& time) {
  constexpr int kRounds = 5;
  double least_ns = VOLT_TRY(time());
  for (int i = 1; i < kRounds; ++i) {
    const double ns = VOLT_TRY(time());
    least_ns = std::min(least_ns, ns);
  }
  return least_ns;
}

}  // namespace

Result<Probe> probe_host(const Kvm& kvm, const GuestImage& image) {
  const double ring3 = VOLT_TRY_IN("ring 3", least([&] { return time_ring3(kvm, image); }));
  const double ring0 = VOLT_TRY_IN("ring 0", least([&] { return time_ring0(kvm); }));
  const bool emulated = ring0 > kEmulatedNs && ring0 > kEmulatedTimes * ring3;
  return Probe{.kind = emulated ? HostKind::kRing3Only : HostKind::kNative,
               .ring3_ns = ring3,
               .ring0_ns = ring0};
}

}  // namespace volt::vmm
