// The machine on the real /dev/kvm, with guests of a dozen bytes of real-mode code.
#include <poll.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/kvm_fixture.h"
#include "vmm/identity.h"
#include "vmm/pc/layout.h"
#include "vmm/pc/linux_machine.h"
#include "vmm/tsc.h"

namespace volt::test {
namespace {

using pc::Pc;
using End = pc::Pc::End;

constexpr std::uint16_t kCode = 0x1000;
constexpr std::uint64_t kRam = 2 << 20;

using Bytes = std::vector<std::uint8_t>;

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Bytes say(char c) {  // mov dx, 0x3f8; mov al, c; out dx, al
  return {0xBA, 0xF8, 0x03, 0xB0, static_cast<std::uint8_t>(c), 0xEE};
}
const Bytes kPowerOff = {0xBA, 0x00, 0x06, 0xB0, 0x34, 0xEE};  // S5 and "go" to port 0x600
const Bytes kReset = {0xB0, 0xFE, 0xE6, 0x64};                 // 0xFE to port 0x64
const Bytes kSpin = {0xEB, 0xFE};

class PcTest : public KvmTest {
 protected:
  // A machine whose CPU 0 is at `code`; DS begins at `data_base`.
  std::unique_ptr<Pc> machine(const Bytes& code, std::uint64_t data_base = 0,
                              std::uint32_t cpus = 1) {
    const std::vector<vmm::RegionLayout> layout = {{.guest_base = 0, .bytes = kRam}};
    vmm::GuestMemory memory = vmm::GuestMemory::anonymous(layout).value();
    EXPECT_TRUE(memory.write(kCode, std::as_bytes(std::span(code))));
    auto built = Pc::build(kvm(), std::move(memory), {.cpus = cpus, .console = [this](std::byte c) {
                                                        said_ += static_cast<char>(c);
                                                      }});
    EXPECT_TRUE(built) << built.error().context;
    EXPECT_TRUE((*built)->start(registers(), segments(data_base)));
    return std::move(*built);
  }

  static kvm_regs registers() {
    kvm_regs regs = {};
    regs.rip = kCode;
    regs.rflags = 2;
    return regs;
  }
  static kvm_sregs segments(std::uint64_t data_base) {
    const auto segment = [](std::uint64_t base, std::uint8_t type) {
      kvm_segment made = {};
      made.base = base;
      made.limit = 0xFFFF;
      made.type = type;
      made.present = 1;
      made.s = 1;
      made.selector = static_cast<std::uint16_t>(base >> 4);
      return made;
    };
    kvm_sregs sregs = {};
    sregs.cs = segment(0, 0xB);
    sregs.ds = segment(data_base, 0x3);
    sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0, 0x3);
    sregs.tr = segment(0, 0xB);
    sregs.tr.s = 0;
    sregs.ldt = segment(0, 0x2);
    sregs.ldt.s = 0;
    sregs.cr0 = 0x10;
    return sregs;
  }

  Result<End> run(Pc& pc) {
    EXPECT_TRUE(pc.run());
    pollfd ended = {pc.ended().get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 60'000), 1);
    const auto outcome = pc.outcome();
    return outcome ? *outcome : fail(Code::kDeadline, "it did not end");
  }

  std::string said_;  // written by a CPU's thread; read once the machine has ended
};

TEST_F(PcTest, SaysSomethingAndPowersOff) {
  const auto pc = machine(say('h') + say('i') + kPowerOff + kSpin);
  const Result<End> end = run(*pc);
  ASSERT_TRUE(end) << end.error().context;
  EXPECT_EQ(*end, End::kPowerOff);
  EXPECT_EQ(said_, "hi");
  EXPECT_GT(pc->first_exit_ns(), 0u);
}

TEST_F(PcTest, APulseOfTheKeyboardControllerResets) {
  const auto pc = machine(kReset + kSpin);
  const Result<End> end = run(*pc);
  ASSERT_TRUE(end) << end.error().context;
  EXPECT_EQ(*end, End::kReset);
  EXPECT_FALSE(pc->run()) << "it has ended";
}

TEST_F(PcTest, StringsGoOutWhole) {
  // mov dx, 0x3f8; mov si, text; mov cx, 5; rep outsb
  const Bytes code = {0xBA, 0xF8, 0x03, 0xBE, 0x20, 0x10, 0xB9, 0x05, 0x00, 0xF3, 0x6E};
  Bytes all = code + kPowerOff + kSpin;
  all.resize(0x20);
  const auto pc = machine(all + Bytes{'w', 'o', 'r', 'd', 's'});
  ASSERT_TRUE(run(*pc));
  EXPECT_EQ(said_, "words");
}

// In protected mode, where a fault without handlers is one too many.
TEST_F(PcTest, ACrashIsAnErrorWithRegisters) {
  const auto pc = machine({0x0F, 0x0B});  // ud2
  kvm_sregs no_handlers = segments(0);
  no_handlers.cr0 |= 1;
  for (kvm_segment* const each : {&no_handlers.cs, &no_handlers.ds, &no_handlers.ss}) {
    each->limit = 0xFFFF'FFFF;
    each->g = each->db = 1;
    each->selector = each == &no_handlers.cs ? 0x8 : 0x10;
  }
  no_handlers.tr.selector = 0x18;
  no_handlers.ldt.unusable = 1;
  ASSERT_TRUE(pc->start(registers(), no_handlers));
  const Result<End> end = run(*pc);
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, Code::kGuestCrashed);
  EXPECT_NE(end.error().context.find("triple fault"), std::string::npos) << end.error().context;
  EXPECT_NE(end.error().context.find("rip 0x"), std::string::npos) << end.error().context;
}

TEST_F(PcTest, PausesAtAnyMomentAndGoesOn) {
  const auto pc = machine(kSpin);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(pc->run());
    ASSERT_TRUE(pc->pause());
    EXPECT_NE(pc->describe_cpus().find("rip 0x1000"), std::string::npos) << pc->describe_cpus();
  }
  EXPECT_FALSE(pc->outcome());
}

TEST_F(PcTest, ClocksAreOfOneMoment) {
  const auto pc = machine(kSpin);
  std::uint64_t tsc = 0;
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t before_ns = vmm::wall_clock_ns();
    const auto clocks = pc->sample_clocks();
    ASSERT_TRUE(clocks) << clocks.error().context;
    EXPECT_GE(clocks->wall_ns, before_ns);
    EXPECT_LE(clocks->wall_ns, vmm::wall_clock_ns());
    EXPECT_GT(clocks->tsc, tsc);
    EXPECT_EQ(clocks->tsc_khz, pc->tsc_khz().value());
    tsc = clocks->tsc;
    ASSERT_TRUE(pc->run());
    ASSERT_TRUE(pc->pause());
  }
}

// Says which events there are, twice, then the 16 bytes of the generation, where DS begins.
const Bytes kSayGeneration = {0xBA, 0x02, 0x06, 0xEC, 0x88, 0xC3,  // in al, 0x602; mov bl, al
                              0xEC, 0x88, 0xC7,                    // again; mov bh, al
                              0xBA, 0xF8, 0x03, 0x88, 0xD8, 0x04, 0x30, 0xEE,  // '0' + bl
                              0x88, 0xF8, 0x04, 0x30, 0xEE,                    // '0' + bh
                              0x31, 0xF6, 0xB9, 0x10, 0x00, 0xF3, 0x6E};       // rep outsb

class GenerationTest : public PcTest {
 protected:
  std::unique_ptr<pc::LinuxMachine> linux_machine() {
    const std::vector<vmm::RegionLayout> layout = {{.guest_base = 0, .bytes = kRam}};
    vmm::GuestMemory memory = vmm::GuestMemory::anonymous(layout).value();
    const Bytes code = kSayGeneration + kPowerOff + kSpin;
    EXPECT_TRUE(memory.write(kCode, std::as_bytes(std::span(code))));
    auto built = pc::LinuxMachine::build(kvm(), std::move(memory), {.show_console = true});
    EXPECT_TRUE(built) << built.error().context;
    EXPECT_TRUE((*built)->pc().start(registers(), segments(pc::kGeneration)));
    return std::move(*built);
  }

  pc::LinuxState state_of(pc::LinuxMachine& machine) {
    EXPECT_TRUE(machine.pc().pause());
    auto state = machine.save(kvm());
    EXPECT_TRUE(state) << state.error().context;
    return std::move(*state);
  }

  std::unique_ptr<pc::LinuxMachine> clone_of(const pc::LinuxState& state, std::string_view text) {
    auto clone = linux_machine();
    const auto generation = std::as_bytes(std::span(text)).first<16>();
    const auto loaded = clone->load(state, generation, 3);
    EXPECT_TRUE(loaded) << loaded.error().context;
    return clone;
  }

  std::string what_it_says(pc::LinuxMachine& machine) {
    const Result<End> end = run(machine.pc());
    EXPECT_TRUE(end) << end.error().context;
    return machine.console().take();
  }
};

TEST_F(GenerationTest, ARestoredGuestFindsItsOwnAndIsTold) {
  const auto booted = linux_machine();
  const pc::LinuxState state = state_of(*booted);
  EXPECT_EQ(what_it_says(*clone_of(state, "a new generation")), "20a new generation");
  EXPECT_EQ(what_it_says(*clone_of(state, "another one here")), "20another one here");
  EXPECT_EQ(what_it_says(*booted), "00" + std::string(16, '\0')) << "nobody was told one";
}

TEST_F(GenerationTest, TheInterruptWaitsForTheGuest) {
  constexpr std::size_t kVector = 0x40, kSpurious = 0xF0, kRequested = 0x200 + kVector / 2;
  pc::LinuxState state = state_of(*linux_machine());
  state.pc.io_apic.redirtbl[pc::kEventInterrupt].bits = kVector;  // to CPU 0, not masked
  state.pc.cpus[0].lapic->regs[kSpurious + 1] = 1;                // and it takes interrupts
  const auto clone = clone_of(state, "a new generation");
  int requested = 0;
  for (const auto limit = vmm::Deadline::in_ms(60'000); requested == 0 && !limit.passed();) {
    requested = state_of(*clone).pc.cpus[0].lapic->regs[kRequested] & 1;  // KVM takes its time
  }
  EXPECT_EQ(requested, 1);
  EXPECT_EQ(state.pc.cpus[0].lapic->regs[kRequested] & 1, 0);
}

std::uint64_t tsc_of(const pc::LinuxState& state) {
  for (const kvm_msr_entry& msr : state.pc.cpus[0].msrs) {
    if (msr.index == 0x10) return msr.data;
  }
  ADD_FAILURE() << "no time stamp counter";
  return 0;
}

// The middle of many, since each may be interrupted in between.
TEST_F(GenerationTest, KvmClockAndTheCounterGoOnAsAPair) {
  const auto booted = linux_machine();
  const double khz = static_cast<double>(booted->pc().tsc_khz().value());
  std::vector<double> apart_ns;
  for (int i = 0; i < 21; ++i) {
    const pc::LinuxState before = state_of(*booted);
    const pc::LinuxState after = state_of(*clone_of(before, "a new generation"));
    const double ticks = static_cast<double>(tsc_of(after) - tsc_of(before));
    const double ns = static_cast<double>(after.pc.clock_ns - before.pc.clock_ns);
    apart_ns.push_back(std::abs(ns - ticks / khz * 1e6));
  }
  std::ranges::sort(apart_ns);
  EXPECT_LT(apart_ns[10], 125e3) << "what a kernel lets pass";
}

// mov dword [0x300], INIT to all others; the same with SIPI, at vector 2: 0x2000.
TEST_F(PcTest, AnotherCpuIsWokenThroughTheApic) {
  const Bytes wake = {0x66, 0xC7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x0C, 0x00,
                      0x66, 0xC7, 0x06, 0x00, 0x03, 0x02, 0x46, 0x0C, 0x00};
  const auto pc = machine(wake + kSpin, pc::kLocalApic, 2);
  const Bytes other = say('2') + kPowerOff + kSpin;
  ASSERT_TRUE(pc->memory().write(0x2000, std::as_bytes(std::span(other))));
  const Result<End> end = run(*pc);
  ASSERT_TRUE(end) << end.error().context;
  EXPECT_EQ(said_, "2");
}

class Adder final : public vmm::Device {
 public:
  void read(std::uint64_t offset, std::span<std::byte> into) override {
    into[0] = std::byte{static_cast<std::uint8_t>('0' + offset)};
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    written = {offset, std::to_integer<std::uint8_t>(from[0])};
  }
  std::pair<std::uint64_t, std::uint8_t> written;
};

TEST_F(PcTest, DevicesAreReachedByTheirAddresses) {
  const Bytes code = Bytes{0xA0, 0x07, 0x00,        // mov al, [7]
                           0xBA, 0xF8, 0x03, 0xEE,  // out 0x3f8, al
                           0xA2, 0x09, 0x00,        // mov [9], al
                           0xA0, 0x00, 0x20, 0xEE}  // what nobody has: all ones
                     + kPowerOff + kSpin;
  const auto pc = machine(code, pc::kVirtioBase);
  Adder device;
  const vmm::InterruptLine line = vmm::InterruptLine::create().value();
  ASSERT_TRUE(pc->add_device(pc::kVirtioBase, pc::kVirtioBytes, device, 5, line));
  EXPECT_FALSE(pc->add_device(pc::kVirtioBase, pc::kVirtioBytes, device, 5, line)) << "taken";
  ASSERT_TRUE(run(*pc));
  EXPECT_EQ(said_, "7\xFF");
  EXPECT_EQ(device.written, (std::pair<std::uint64_t, std::uint8_t>{9, '7'}));
}

TEST_F(PcTest, CountsTimeAsTheSnapshotDidOrSaysWhyNot) {
  static_assert(vmm::is_same_tsc(2'000'500, 2'000'000));
  static_assert(!vmm::is_same_tsc(2'000'501, 2'000'000));
  static_assert(!vmm::is_same_tsc(1'999'499, 2'000'000));
  static_assert(!vmm::is_same_tsc(0, ~std::uint64_t{0}) && !vmm::is_same_tsc(~std::uint64_t{0}, 0));
  const auto pc = machine(kSpin);
  const std::uint64_t khz = pc->tsc_khz().value();
  EXPECT_TRUE(pc->match_tsc(kvm(), khz));
  const Result<> faster = pc->match_tsc(kvm(), khz + khz / 100);
  if (kvm().check_extension(KVM_CAP_TSC_CONTROL).value() > 0) {
    EXPECT_TRUE(faster);
    EXPECT_EQ(pc->tsc_khz().value(), khz + khz / 100);
  } else {
    ASSERT_FALSE(faster);
    EXPECT_EQ(faster.error().code, Code::kUnsupported);
    const std::string named = std::to_string(khz + khz / 100) + " kHz";
    EXPECT_NE(faster.error().context.find(named), std::string::npos) << faster.error().context;
  }
  EXPECT_FALSE(pc->match_tsc(kvm(), 0)) << "KVM would take it for its own frequency";
}

TEST_F(PcTest, HasOneToSixteenCpus) {
  for (const std::uint32_t cpus : {0u, 17u}) {
    const std::vector<vmm::RegionLayout> layout = {{.guest_base = 0, .bytes = kRam}};
    auto built = Pc::build(kvm(), vmm::GuestMemory::anonymous(layout).value(),
                           {.cpus = cpus, .console = {}});
    ASSERT_FALSE(built);
    EXPECT_EQ(built.error().code, Code::kInvalid);
  }
  EXPECT_NE(machine(kSpin, 0, 16), nullptr);
}

}  // namespace
}  // namespace volt::test
