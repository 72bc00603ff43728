// How a running guest is stopped from outside: by its deadline, by the user, and not by anything
// else. Nothing here waits for time to pass: guests say by an eventfd that they run.
#include "vmm/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "tests/vmm/guest_fixture.h"
#include "vmm/micro_cpu.h"

namespace volt::vmm {
namespace {

using test::GuestTest;

using InterruptTest = GuestTest;
using InterruptDeathTest = GuestTest;

std::atomic<int> g_signals = 0;

void count_signal(int) {
  ++g_signals;
}

void count_sigusr1() {
  struct sigaction action = {};
  action.sa_handler = count_signal;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
}

Fd kick_event(Machine& machine) {
  Fd event{::eventfd(0, EFD_CLOEXEC)};
  EXPECT_TRUE(machine.signal_kicks_to(event));
  return event;
}

// Blocks until the guest has kicked, and takes the kicks.
std::uint64_t await_kick(const Fd& event) {
  std::uint64_t kicks = 0;
  while (::read(event.get(), &kicks, sizeof kicks) < 0 && errno == EINTR) {
  }
  return kicks;
}

// From its answer on, which is a kick, the exact guest runs and never exits.
void ask_to_run_on(Machine& machine) {
  ASSERT_TRUE(
      machine.exchange().send(test::Function{static_cast<std::uint32_t>(exact::Function::kRunOn)},
                              {}, {.want_kick = true}));
}

TEST_F(InterruptTest, ADeadlineStopsAGuestThatNeverAnswers) {
  const auto machine = boot_echo();
  ASSERT_TRUE(begin_call(*machine, {test::Function::kSpin, {}}));
  const auto reply = finish_call(*machine, Deadline::in_ms(5), {});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::kDeadline);
  EXPECT_EQ(reply.error().context, "the guest did not answer in time");
}

TEST_F(InterruptTest, ADeadlineThatPassedBeforeTheRunStopsIt) {
  const auto machine = boot_echo();
  ASSERT_TRUE(begin_call(*machine, {test::Function::kSpin, {}}));
  for (const Deadline passed : {Deadline{0}, Deadline{1}, Deadline::in_ms(0)}) {
    const auto reply = finish_call(*machine, passed, {});
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().code, Code::kDeadline) << passed.at_ns;
  }
}

TEST_F(InterruptTest, DeadlinesAreComparedNotGuessed) {
  EXPECT_TRUE(Deadline{0}.passed());
  EXPECT_TRUE(Deadline{1}.passed());
  EXPECT_FALSE(Deadline{}.passed());
  EXPECT_FALSE(Deadline::in_ms(1'000'000).passed());
}

TEST_F(InterruptTest, AGuestStoppedByItsDeadlineGoesOnWhereItWas) {
  const auto machine = boot_exact();
  const auto first = call(*machine, test::exact_call(exact::Function::kRunOn));
  ASSERT_TRUE(first) << first.error().context;
  const std::uint64_t before = test::reply_as<exact::Registers>(*first).r15;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(machine->run(Deadline::in_ms(1)).error().code, Code::kDeadline);
  }
  const auto last = call(*machine, test::exact_call(exact::Function::kRegisters));
  ASSERT_TRUE(last) << last.error().context;
  EXPECT_GT(test::reply_as<exact::Registers>(*last).r15, before);
}

TEST_F(InterruptTest, AMachineWhoseGuestWasStoppedCanStartAnother) {
  const auto machine = boot_echo();
  ASSERT_TRUE(begin_call(*machine, {test::Function::kSpin, {}}));
  ASSERT_FALSE(finish_call(*machine, Deadline::in_ms(1), {}));
  const auto note = GuestImage::parse(tools::micro_image()).value().note();
  machine->start(micro_regs(note.resume_entry, note.stack_top, guest_abi::kWindowBase),
                 micro_sregs(note));
  const auto reply = call(*machine, test::Function::kEcho, {5});
  ASSERT_TRUE(reply) << reply.error().context;
  EXPECT_EQ(test::reply_as<std::uint64_t>(*reply), 5u);
}

// A later run of the same thread inherits nothing: the old timer fires into it, and it goes on.
TEST_F(InterruptTest, TheDeadlineOfAnEarlierCallDoesNotStopALaterOne) {
  const auto machine = boot_exact();
  const Fd kicks = kick_event(*machine);
  ASSERT_TRUE(
      call_guest(*machine, test::exact_call(exact::Function::kRegisters), Deadline::in_ms(50), {}));
  ask_to_run_on(*machine);
  const Deadline fired = Deadline::in_ms(60);
  std::thread answer([&] {
    await_kick(kicks);
    while (!fired.passed()) std::this_thread::yield();
    EXPECT_TRUE(begin_call(*machine, test::exact_call(exact::Function::kRegisters)));
  });
  const auto doorbell = machine->run(Deadline{});
  answer.join();
  ASSERT_TRUE(doorbell) << doorbell.error().context;
  EXPECT_EQ(doorbell->kind, Doorbell::Kind::kDone);
}

TEST_F(InterruptTest, TheDeadlineOfAnEarlierCallCutsNoSystemCallShort) {
  const auto machine = boot_echo();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const Fd out{ends[0]}, in{ends[1]};
  ASSERT_TRUE(call_guest(*machine, {test::Function::kEcho, {}}, Deadline::in_ms(50), {}));
  const Deadline fired = Deadline::in_ms(60);
  std::thread writer([&] {
    while (!fired.passed()) std::this_thread::yield();
    EXPECT_EQ(::write(in.get(), "x", 1), 1);
  });
  char got = 0;
  EXPECT_EQ(::read(out.get(), &got, 1), 1) << std::strerror(errno);
  writer.join();
}

TEST_F(InterruptTest, OtherSignalsOfTheHostDoNotEndARun) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "TSan keeps signals back from a thread that is in KVM_RUN";
#endif
  count_sigusr1();
  const auto machine = boot_exact();
  const Fd kicks = kick_event(*machine);
  ask_to_run_on(*machine);
  const pthread_t runner = ::pthread_self();
  std::thread storm([&] {
    await_kick(kicks);
    for (int i = 0; i < 200; ++i) {
      const int before = g_signals;
      ASSERT_EQ(::pthread_kill(runner, SIGUSR1), 0);
      while (g_signals == before) std::this_thread::yield();
    }
    EXPECT_TRUE(begin_call(*machine, test::exact_call(exact::Function::kRegisters)));
  });
  const auto doorbell = machine->run(Deadline{});
  storm.join();
  ASSERT_TRUE(doorbell) << doorbell.error().context;
  EXPECT_EQ(doorbell->kind, Doorbell::Kind::kDone);
}

// KVM_CREATE_VM gives up with EINTR while a signal is pending.
TEST_F(InterruptTest, VmsAreMadeWhateverSignalsArrive) {
  count_sigusr1();
  constexpr int kVms = 100, kSignalsEach = 20;
  std::atomic<int> begun = 0;
  const pthread_t maker = ::pthread_self();
  std::thread storm([&] {
    for (int vm = 1; vm <= kVms; ++vm) {
      while (begun < vm) std::this_thread::yield();
      for (int i = 0; i < kSignalsEach && begun == vm; ++i) {
        const int before = g_signals;
        ::pthread_kill(maker, SIGUSR1);
        while (g_signals == before) std::this_thread::yield();
      }
    }
  });
  for (int i = 0; i < kVms; ++i) {
    ++begun;
    const Result<Vm> vm = kvm().create_vm();
    EXPECT_TRUE(vm) << vm.error().context;
  }
  storm.join();
}

// A stop is for the whole program and stays, so each of these is a process of its own.
[[noreturn]] void exit_if_interrupted(const Result<Doorbell>& ran) {
  ::_exit(!ran && ran.error().code == Code::kInterrupted && stop_requested() && !check_stop() ? 7
                                                                                              : 1);
}

TEST_F(InterruptDeathTest, AStopWhileTheGuestRunsEndsTheRun) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto machine = boot_exact();
  const Fd kicks = kick_event(*machine);
  EXPECT_EXIT(
      {
        stop_on_signals();
        ask_to_run_on(*machine);
        const pthread_t runner = ::pthread_self();
        std::thread user([&] {
          await_kick(kicks);
          ::pthread_kill(runner, SIGINT);
        });
        user.detach();
        exit_if_interrupted(machine->run(Deadline{}));
      },
      testing::ExitedWithCode(7), "");
}

TEST_F(InterruptDeathTest, AStopBeforeTheRunIsNotLost) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto machine = boot_exact();
  EXPECT_EXIT(
      {
        stop_on_signals();
        ask_to_run_on(*machine);
        ::raise(SIGTERM);
        exit_if_interrupted(machine->run(Deadline{}));
      },
      testing::ExitedWithCode(7), "");
}

TEST_F(InterruptDeathTest, ASecondStopKills) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        stop_on_signals();
        ::raise(SIGINT);
        ::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace volt::vmm
