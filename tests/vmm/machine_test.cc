// One machine beside others, at rest, and by doorbells that cost no exit.
#include "vmm/machine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "tests/vmm/guest_fixture.h"

namespace volt::vmm {
namespace {

using test::GuestTest;

using MachineTest = GuestTest;

TEST_F(MachineTest, AMachineHasOneToSixtyFourCpus) {
  for (const std::size_t cpus : {0UZ, 65UZ, ~0UZ}) {
    const auto machine = Machine::build(kvm(), cpus);
    ASSERT_FALSE(machine);
    EXPECT_EQ(machine.error().code, Code::kInvalid);
  }
  EXPECT_TRUE(Machine::build(kvm(), 2));
}

TEST_F(MachineTest, TwoMachinesOnTwoThreadsDoNotMeet) {
  std::vector<std::thread> threads;
  for (std::uint64_t id = 1; id <= 2; ++id) {
    threads.emplace_back([this, id] {
      const auto machine = boot_kv();
      for (std::uint64_t i = 0; i < 200; ++i) {
        ASSERT_TRUE(call(*machine, test::Function::kPut, {i, id * 1000 + i}));
        const auto got = call(*machine, test::Function::kGet, {i});
        ASSERT_TRUE(got) << got.error().context;
        ASSERT_EQ(test::reply_as<std::uint64_t>(*got), id * 1000 + i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(MachineTest, AMachineMayMoveToAnotherThreadBetweenRuns) {
  const auto machine = boot_echo();
  ASSERT_TRUE(call(*machine, test::Function::kEcho, {1}));
  std::thread([&] { EXPECT_TRUE(call(*machine, test::Function::kEcho, {2})); }).join();
  EXPECT_TRUE(call(*machine, test::Function::kEcho, {3}));
}

TEST_F(MachineTest, QuiescingTwiceMovesNothing) {
  const auto machine = boot_exact();  // stands right after the OUT to READY
  const StateSources sources = StateSources::probe(kvm()).value();
  ASSERT_TRUE(machine->quiesce());
  const kvm_regs first = machine->save(sources).value()[0].regs;
  ASSERT_TRUE(machine->quiesce());
  const kvm_regs second = machine->save(sources).value()[0].regs;
  EXPECT_EQ(std::memcmp(&first, &second, sizeof first), 0);
  const auto reply = call(*machine, test::exact_call(exact::Function::kRegisters));
  ASSERT_TRUE(reply) << reply.error().context;
}

// A port write that is not finished yet must not be done again, nor its instruction.
TEST_F(MachineTest, AfterADoorbellTheGuestStandsBehindItsOut) {
  const auto machine = boot_exact();
  ASSERT_TRUE(call(*machine, test::exact_call(exact::Function::kRegisters)));
  ASSERT_TRUE(machine->quiesce());
  const StateSources sources = StateSources::probe(kvm()).value();
  const std::uint64_t rip = machine->save(sources).value()[0].regs.rip;
  std::uint8_t before[1] = {};
  ASSERT_TRUE(machine->memory().read(rip - 1, std::as_writable_bytes(std::span(before))));
  EXPECT_EQ(before[0], 0xEF) << "OUT DX, EAX";
}

TEST_F(MachineTest, AKickThatNobodyListensForIsAnExit) {
  const auto machine = boot_echo();
  ASSERT_TRUE(machine->exchange().send(test::Function::kEcho, {}, {.want_kick = true}));
  for (;;) {
    const auto doorbell = machine->run(test::soon());
    ASSERT_TRUE(doorbell) << doorbell.error().context;
    if (doorbell->kind == Doorbell::Kind::kDone) break;
    ASSERT_EQ(doorbell->kind, Doorbell::Kind::kPark);
  }
  EXPECT_TRUE(machine->exchange().receive());
}

// Runs the guest until it rings DONE; it may park on the way, where its host is slow.
void run_until_done(Machine& machine, int& dones) {
  for (;;) {
    const auto doorbell = machine.run(test::soon());
    ASSERT_TRUE(doorbell) << doorbell.error().context;
    if (doorbell->kind == Doorbell::Kind::kPark) continue;
    ASSERT_EQ(doorbell->kind, Doorbell::Kind::kDone);
    ++dones;
    return;
  }
}

std::uint64_t await_kick(const Fd& event) {
  pollfd polled = {.fd = event.get(), .events = POLLIN, .revents = 0};
  constexpr int kTooLongMs = 60'000;  // only what hangs meets it
  std::uint64_t kicks = 0;
  if (::poll(&polled, 1, kTooLongMs) != 1) return 0;
  return ::read(event.get(), &kicks, sizeof kicks) == sizeof kicks ? kicks : 0;
}

TEST_F(MachineTest, KicksAnswerRequestsWhileTheGuestRunsOn) {
  const auto machine = boot_echo();
  const Fd event{::eventfd(0, EFD_CLOEXEC)};
  ASSERT_TRUE(machine->signal_kicks_to(event));
  constexpr Answering kKick = {.want_kick = true, .spin_tsc = UINT32_MAX};
  Exchange& exchange = machine->exchange();
  ASSERT_TRUE(exchange.send(test::Function::kEcho, test::words({0}), kKick));
  int dones = 0;
  std::thread runner([&] { run_until_done(*machine, dones); });
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(await_kick(event), 1u) << "request " << i;
    ASSERT_TRUE(exchange.answered());
    EXPECT_EQ(test::reply_as<std::uint64_t>(exchange.receive().value()), i);
    const Answering how = i < 99 ? kKick : Answering{};
    ASSERT_TRUE(exchange.send(test::Function::kEcho, test::words({i + 1}), how));
  }
  runner.join();
  EXPECT_EQ(dones, 1) << "only the request that asked for no kick";
  EXPECT_EQ(test::reply_as<std::uint64_t>(exchange.receive().value()), 100u);
}

TEST_F(MachineTest, OneEventCannotBeRungTwiceByOneMachine) {
  const auto machine = Machine::build(kvm(), 1).value();
  const Fd event{::eventfd(0, EFD_CLOEXEC)};
  ASSERT_TRUE(machine->signal_kicks_to(event));
  const Result<> again = machine->signal_kicks_to(event);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().sys_errno, EEXIST);
}

}  // namespace
}  // namespace volt::vmm
