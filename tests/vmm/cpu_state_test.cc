// Whole CPU state, out of one VM and into another: the exact guest keeps all it has in registers,
// so what is lost or changed on the way shows in its next answer.
#include "vmm/cpu_state.h"

#include <algorithm>
#include <cstring>

#include "tests/vmm/guest_fixture.h"
#include "vmm/identity.h"

namespace volt::vmm {
namespace {

using test::GuestTest;

class CpuStateTest : public GuestTest {
 protected:
  // All that a machine is, but its window.
  struct Frozen {
    std::vector<CpuState> cpus;
    std::vector<std::byte> memory;
  };

  void SetUp() override {
    GuestTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    sources_ = StateSources::probe(kvm()).value();
  }

  Frozen freeze(Machine& machine) const {
    EXPECT_TRUE(machine.quiesce());
    Frozen frozen = {.cpus = machine.save(sources_).value(),
                     .memory = std::vector<std::byte>(test::kGuestRam)};
    EXPECT_TRUE(machine.memory().read(0, frozen.memory));
    return frozen;
  }

  // As a new VM, with an identity of its own.
  std::unique_ptr<Machine> thaw(const Frozen& frozen) const {
    auto machine = Machine::build(kvm(), 1).value();
    GuestMemory memory = GuestMemory::anonymous(ram_layout(test::kGuestRam).value()).value();
    EXPECT_TRUE(memory.write(0, frozen.memory));
    EXPECT_TRUE(machine->attach_memory(std::move(memory)));
    const Result<> loaded = machine->load(frozen.cpus);
    EXPECT_TRUE(loaded) << loaded.error().context;
    const std::uint64_t tsc_khz = machine->tsc_khz().value();
    machine->exchange().set_identity(fresh_identity(tsc_khz).value());
    return machine;
  }

  static exact::Registers registers_of(Machine& machine) {
    const auto reply = call(machine, test::exact_call(exact::Function::kRegisters));
    EXPECT_TRUE(reply) << reply.error().context;
    return reply ? test::reply_as<exact::Registers>(*reply) : exact::Registers{};
  }

  StateSources sources_ = {};
};

// Where the guest stands on all of its lines at once.
void expect_on_line(const exact::Registers& got) {
  const exact::Registers wanted = exact::after(got.r15);
  for (int i = 0; i < exact::kLines; ++i) EXPECT_EQ(got.lines[i], wanted.lines[i]) << "line " << i;
  EXPECT_EQ(got.r12, wanted.r12);
  EXPECT_EQ(got.r13, wanted.r13);
  for (int i = 0; i < exact::kVectors; ++i) {
    EXPECT_EQ(got.vectors[i][0], wanted.vectors[i][0]) << "xmm" << i;
    EXPECT_EQ(got.vectors[i][1], wanted.vectors[i][1]) << "xmm" << i;
  }
  EXPECT_EQ(got.mxcsr, wanted.mxcsr);
  EXPECT_EQ(got.x87_control, wanted.x87_control);
}

TEST_F(CpuStateTest, TheExactGuestComputesWhatTheTestDoes) {
  const auto machine = boot_exact();
  const exact::Registers first = registers_of(*machine);
  const exact::Registers second = registers_of(*machine);
  expect_on_line(first);
  expect_on_line(second);
  EXPECT_GT(second.r15, first.r15);
  EXPECT_EQ(first.r14, 0u);
  EXPECT_EQ(second.r14, 1u);
}

TEST_F(CpuStateTest, AGuestGoesOnInAnotherVmWhereItStopped) {
  const auto machine = boot_exact();
  const exact::Registers before = registers_of(*machine);
  const Frozen frozen = freeze(*machine);
  const auto thawed = thaw(frozen);
  const exact::Registers after = registers_of(*thawed);
  expect_on_line(after);
  EXPECT_GT(after.r15, before.r15);
  EXPECT_EQ(after.rsp, before.rsp);
  EXPECT_TRUE(thawed->exchange().identity_adopted());
}

TEST_F(CpuStateTest, AGuestFrozenBeforeItsFirstStepStartsInTheOtherVm) {
  const auto machine = boot_exact();
  const auto thawed = thaw(freeze(*machine));
  expect_on_line(registers_of(*thawed));
}

// Stopped in the middle of a step, where no two registers need agree.
TEST_F(CpuStateTest, AGuestFrozenAtAnyInstructionGoesOnWithThatInstruction) {
  const auto machine = boot_exact();
  ASSERT_TRUE(call(*machine, test::exact_call(exact::Function::kRunOn)));
  std::uint64_t steps = 0;
  for (int i = 0; i < 20; ++i) {
    const auto ran = machine->run(Deadline::in_ms(1));
    ASSERT_FALSE(ran);
    ASSERT_EQ(ran.error().code, Code::kDeadline) << ran.error().context;
    const Frozen frozen = freeze(*machine);
    EXPECT_GE(frozen.cpus[0].regs.r15, steps);
    steps = frozen.cpus[0].regs.r15;
    const auto thawed = thaw(frozen);
    const exact::Registers after = registers_of(*thawed);
    expect_on_line(after);
    EXPECT_GE(after.r15, steps);
  }
  expect_on_line(registers_of(*machine));  // the original has not noticed
}

TEST_F(CpuStateTest, ClonesOfOneStateLiveApart) {
  const auto machine = boot_exact();
  const Frozen frozen = freeze(*machine);
  const auto one = thaw(frozen), two = thaw(frozen);
  for (int i = 0; i < 10; ++i) expect_on_line(registers_of(*one));
  EXPECT_LT(registers_of(*two).r15, registers_of(*one).r15);
}

TEST_F(CpuStateTest, WhatIsLoadedIsWhatIsSavedAgain) {
  const auto machine = boot_exact();
  registers_of(*machine);
  Frozen frozen = freeze(*machine);
  frozen.cpus[0].debugregs.db[0] = 0x1234;
  const auto thawed = thaw(frozen);
  const CpuState again = thawed->save(sources_).value()[0];
  const CpuState& first = frozen.cpus[0];
  EXPECT_EQ(std::memcmp(&again.regs, &first.regs, sizeof first.regs), 0);
  EXPECT_EQ(again.xsave, first.xsave);
  EXPECT_EQ(again.xcrs.xcrs[0].value, first.xcrs.xcrs[0].value);
  EXPECT_EQ(again.debugregs.db[0], 0x1234u);
  EXPECT_EQ(again.sregs.cr3, first.sregs.cr3);
  EXPECT_EQ(again.sregs.efer, first.sregs.efer);
  EXPECT_EQ(std::memcmp(&again.sregs.cs, &first.sregs.cs, sizeof first.sregs.cs), 0);
  EXPECT_EQ(std::memcmp(&again.sregs.tr, &first.sregs.tr, sizeof first.sregs.tr), 0);
  EXPECT_EQ(again.mp_state.mp_state, first.mp_state.mp_state);
  EXPECT_EQ(again.msrs.size(), first.msrs.size());
}

TEST_F(CpuStateTest, MsrsAreCarriedOver) {
  constexpr std::uint32_t kLstar = 0xC000'0082;
  const auto machine = boot_exact();
  Frozen frozen = freeze(*machine);
  const auto lstar = std::ranges::find(frozen.cpus[0].msrs, kLstar, &kvm_msr_entry::index);
  ASSERT_NE(lstar, frozen.cpus[0].msrs.end());
  lstar->data = 0x5678'9000;
  const CpuState again = thaw(frozen)->save(sources_).value()[0];
  const auto found = std::ranges::find(again.msrs, kLstar, &kvm_msr_entry::index);
  ASSERT_NE(found, again.msrs.end());
  EXPECT_EQ(found->data, 0x5678'9000u);
}

TEST_F(CpuStateTest, AStateOfAnotherNumberOfCpusIsRefused) {
  const auto machine = boot_exact();
  Frozen frozen = freeze(*machine);
  frozen.cpus.push_back(frozen.cpus[0]);
  const auto one = Machine::build(kvm(), 1).value();
  const Result<> two_into_one = one->load(frozen.cpus);
  ASSERT_FALSE(two_into_one);
  EXPECT_EQ(two_into_one.error().code, Code::kInvalid);
  EXPECT_EQ(two_into_one.error().context, "state of 2 CPUs for a VM of 1");
  EXPECT_FALSE(one->load({}));
}

TEST_F(CpuStateTest, AnMsrTheHostCannotSetIsNamed) {
  constexpr std::uint32_t kNone = 0x7777'7777;
  const auto machine = boot_exact();
  Frozen frozen = freeze(*machine);
  frozen.cpus[0].msrs.insert(frozen.cpus[0].msrs.begin() + 2,
                             kvm_msr_entry{.index = kNone, .reserved = 0, .data = 0xABC});
  const auto target = Machine::build(kvm(), 1).value();
  const Result<> loaded = target->load(frozen.cpus);
  if (loaded) GTEST_SKIP() << "this KVM ignores MSRs it does not know (kvm.ignore_msrs)";
  EXPECT_EQ(loaded.error().code, Code::kUnsupported);
  EXPECT_EQ(loaded.error().context, "KVM_SET_MSRS: MSR 0x77777777 cannot be set to 0xabc here");
}

}  // namespace
}  // namespace volt::vmm
