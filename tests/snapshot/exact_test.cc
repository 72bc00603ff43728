// A guest without a resume entry keeps its state in its registers: restored, it goes on exactly
// where it stopped, with every one of them.
#include <gtest/gtest.h>
#include <algorithm>

#include <cstring>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using exact::Registers;

class ExactTest : public EveryLoaderTest {
 protected:
  Registers registers(Sandbox& sandbox,
                      exact::Function function = exact::Function::kRegisters) const {
    return reply_as<Registers>(must(call(sandbox, exact_call(function))));
  }
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, ExactTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

// Every register is where so many steps have brought it.
void expect_on_its_lines(const Registers& registers) {
  const Registers expected = exact::after(registers.r15);
  for (int i = 0; i < exact::kLines; ++i) {
    EXPECT_EQ(registers.lines[i], expected.lines[i]) << "general register " << i;
  }
  EXPECT_EQ(registers.r12, expected.r12);
  EXPECT_EQ(registers.r13, expected.r13);
  for (int i = 0; i < exact::kVectors; ++i) {
    EXPECT_EQ(registers.vectors[i][0], expected.vectors[i][0]) << "XMM" << i << " low";
    EXPECT_EQ(registers.vectors[i][1], expected.vectors[i][1]) << "XMM" << i << " high";
  }
  EXPECT_EQ(registers.mxcsr, exact::kMxcsr);
  EXPECT_EQ(registers.x87_control, exact::kX87Control);
}

TEST_P(ExactTest, ACloneGoesOnWithEveryRegisterOfTheCapturedGuest) {
  const std::unique_ptr<Sandbox> guest = boot_exact_guest(kvm());
  const Registers before = registers(*guest);
  registers(*guest);
  capture(*guest, "exact");
  const std::unique_ptr<Sandbox> clone = restore("exact");
  const Registers after = registers(*clone);
  expect_on_its_lines(after);
  EXPECT_GT(after.r15, before.r15) << "it began anew";
  EXPECT_EQ(after.rsp, before.rsp);
  expect_on_its_lines(registers(*clone));
}

// Stopped by its deadline anywhere in its loop, not at a doorbell.
TEST_P(ExactTest, AGuestCapturedInTheMiddleOfItsWorkGoesOnThere) {
  const std::unique_ptr<Sandbox> guest = boot_exact_guest(kvm());
  registers(*guest);
  const Registers before = registers(*guest, exact::Function::kRunOn);
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(must_fail(guest->machine().run(vmm::Deadline::in_ms(1))).code, Code::kDeadline);
    const std::string name = "exact:" + std::to_string(round);
    capture(*guest, name);
    const std::unique_ptr<Sandbox> clone = restore(name);
    // Stopped between its look at the identity and its look at the request, it is refused, once.
    const auto refused = call(*clone, exact_call(exact::Function::kRegisters));
    EXPECT_TRUE(refused || contains(refused.error().context, "identity"));
    const Registers after = registers(*clone);
    expect_on_its_lines(after);
    EXPECT_GT(after.r15, before.r15);
  }
  expect_on_its_lines(registers(*guest));
}

// The guest knows the number of the request it served last, a new host's window does not.
TEST_P(ExactTest, HoweverManyCallsCameBeforeTheCaptureTheNextOneIsServed) {
  const std::unique_ptr<Sandbox> guest = boot_exact_guest(kvm());
  for (int calls = 0; calls < 4; ++calls) {
    const std::string name = "exact:" + std::to_string(calls);
    capture(*guest, name);
    const std::unique_ptr<Sandbox> clone = restore(name);
    for (int i = 0; i < 3; ++i) {
      const auto reply =
          clone->call(exact_call(exact::Function::kRegisters), vmm::Deadline::in_ms(10'000), {});
      ASSERT_TRUE(reply) << calls << " calls before: " << reply.error().context;
    }
    registers(*guest);
  }
}

// Whether SSE's registers count as in use while all of them are zero is the processor's affair: it
// may forget about it whenever it saves them.
std::string without_idle_sse(std::string xsave) {
  constexpr std::size_t kRegisters = 160, kRegistersEnd = 416, kInUse = 512;
  constexpr char kSse = 2;
  const bool idle = std::all_of(xsave.begin() + kRegisters, xsave.begin() + kRegistersEnd,
                                [](char byte) { return byte == 0; });
  if (idle) xsave[kInUse] = static_cast<char>(xsave[kInUse] & ~kSse);
  return xsave;
}

TEST_P(ExactTest, ACloneThatHasNotRunCapturesToTheSameState) {
  capture(*boot_exact_guest(kvm()), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  capture(*clone, "second");
  const auto first = must(snapshot::OpenedSnapshot::open(store(), named("first")));
  const auto second = must(snapshot::OpenedSnapshot::open(store(), named("second")));
  EXPECT_EQ(first.manifest().memory().digest(), second.manifest().memory().digest());
  const auto& was = first.state().vcpus(0);
  const auto& is = second.state().vcpus(0);
  EXPECT_EQ(was.general().SerializeAsString(), is.general().SerializeAsString());
  EXPECT_EQ(was.special().SerializeAsString(), is.special().SerializeAsString());
  EXPECT_EQ(was.debug().SerializeAsString(), is.debug().SerializeAsString());
  EXPECT_EQ(was.events().SerializeAsString(), is.events().SerializeAsString());
  EXPECT_EQ(without_idle_sse(was.xsave()), without_idle_sse(is.xsave()));
  EXPECT_EQ(was.mp_state(), is.mp_state());
  EXPECT_EQ(was.xcrs_size(), is.xcrs_size());
  EXPECT_EQ(was.msrs_size(), is.msrs_size());
}

}  // namespace
}  // namespace volt::test
