// The signal that KVM sends a thread whose guest touched a poisoned page, without a KVM.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "vmm/os/fault_guard.h"

namespace volt {
namespace {

// As the kernel does: to this thread, not forced.
void send_sigbus(int code) {
  siginfo_t info = {};
  info.si_signo = SIGBUS;
  info.si_code = code;
  ASSERT_EQ(::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::syscall(SYS_gettid), SIGBUS, &info), 0);
}

TEST(PoisonWatchTest, ASignalWhileItLivesIsNotedAndNotFatal) {
  const PoisonWatch watch;
  EXPECT_FALSE(watch.struck());
  send_sigbus(BUS_MCEERR_AR);
  EXPECT_TRUE(watch.struck());
}

TEST(PoisonWatchTest, EachHasItsOwnNote) {
  const PoisonWatch outer;
  {
    const PoisonWatch inner;
    send_sigbus(BUS_MCEERR_AR);
    EXPECT_TRUE(inner.struck());
  }
  EXPECT_FALSE(outer.struck());
  send_sigbus(BUS_MCEERR_AR);
  EXPECT_TRUE(outer.struck());
  const PoisonWatch next;
  EXPECT_FALSE(next.struck());
}

TEST(PoisonWatchTest, AThreadThatBlocksTheSignalGetsItAllTheSame) {
  std::thread blocked([] {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
    const PoisonWatch watch;
    send_sigbus(BUS_MCEERR_AR);
    EXPECT_TRUE(watch.struck());
  });
  blocked.join();
}

bool died(int status) {
  return WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0;
}

// Twice: the first time it is given back to whoever handled it before.
void send_twice(int code) {
  send_sigbus(code);
  send_sigbus(code);
}

TEST(PoisonWatchDeathTest, WithoutAWatchItKills) {
  {
    const PoisonWatch watch;
  }
  EXPECT_EXIT(send_twice(BUS_MCEERR_AR), died, "");
}

TEST(PoisonWatchDeathTest, AnotherBusErrorKillsDespiteIt) {
  const PoisonWatch watch;
  EXPECT_EXIT(send_twice(BUS_ADRERR), died, "");
}

}  // namespace
}  // namespace volt
