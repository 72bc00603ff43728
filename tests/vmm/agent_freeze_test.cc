// FREEZE and RESUME on real processes, in a control group, a mount and a UTS namespace of their
// own.
#include <x86intrin.h>

#include <algorithm>
#include <chrono>

#include "tests/vmm/native_agent.h"

namespace volt::vmm {
namespace {

constexpr std::int64_t kMs = 1'000'000;

std::uint64_t steady_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Both clocks of one moment.
struct Moment {
  std::uint64_t ns, tsc;

  static Moment now() {
    for (;;) {
      const Moment moment = {steady_ns(), __rdtsc()};
      if (steady_ns() - moment.ns < 20'000) return moment;
    }
  }
};

std::uint64_t tsc_khz() {
  static const std::uint64_t khz = [] {
    const Moment before = Moment::now();
    pause_ms(200);
    const Moment after = Moment::now();
    return (after.tsc - before.tsc) * 1'000'000 / (after.ns - before.ns);
  }();
  return khz;
}

// Of 20 ms ago, by the counter: so the guest's clock is right and a little ahead, and is let be.
// The agent of tests may set no clock at all.
AgentIdentity identity(std::uint8_t seed = 1) {
  AgentIdentity identity = {};
  identity.generation.fill(seed);
  identity.entropy.fill(static_cast<std::uint8_t>(seed + 1));
  identity.tsc_khz = tsc_khz();
  identity.tsc = __rdtsc();
  identity.wall_ns = static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count() -
      20 * kMs);
  identity.hostname = "restored";
  return identity;
}

class AgentFreezeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = NativeAgent::no_own_guest(); !why.empty()) GTEST_SKIP() << why;
    agent_.start();
  }

  Result<agent_abi::Frozen> freeze() { return freeze_guest(agent_.connect(), patient()); }
  Result<agent_abi::Resumed> resume(const AgentIdentity& as = identity()) {
    return resume_guest(agent_.connect(), as, patient());
  }

  // A process of the guest that never stops writing, until it may not run.
  void start_ticking() {
    const std::string ticks = agent_.folder() / "ticks";
    run(agent_, shell("while :; do echo >> " + ticks + "; done >/dev/null 2>&1 &"));
    ASSERT_TRUE(eventually([&] { return size() > 0; }));
  }
  std::uintmax_t size() const {
    std::error_code error;
    const std::uintmax_t bytes = fs::file_size(agent_.folder() / "ticks", error);
    return error ? 0 : bytes;
  }
  bool runs() const {
    const std::uintmax_t before = size();
    return eventually([&] { return size() > before; });
  }
  bool is_frozen() const {
    return read_file(agent_.group() / "volt/cgroup.events").find("frozen 1") != std::string::npos;
  }

  // A hook that notes its name and VOLT_EVENT, then does more.
  void add_hook(const std::string& directory, const std::string& name, const std::string& more) {
    write_program(agent_.folder() / "etc/volt/hooks" / directory / name,
                  "#!/bin/sh\necho " + name + " $VOLT_EVENT >> " + notes() + "\n" + more + "\n");
  }
  std::string notes() const { return agent_.folder() / "notes"; }

  NativeAgent agent_{NativeAgent::Kind::kOwnGuest};
};

TEST_F(AgentFreezeTest, WhatIsFrozenRunsNoInstructionUntilItIsResumed) {
  start_ticking();
  const auto frozen = freeze();
  ASSERT_TRUE(frozen) << frozen.error().context << agent_.console();
  EXPECT_EQ(frozen->groups, 1U);
  EXPECT_TRUE(is_frozen());
  const std::uintmax_t before = size();
  pause_ms(50);
  EXPECT_EQ(size(), before);
  const auto resumed = resume();
  ASSERT_TRUE(resumed) << resumed.error().context;
  EXPECT_EQ(resumed->clock_step_ns, 0) << "the message took time, and clocks do not step back";
  EXPECT_TRUE(runs());
}

TEST_F(AgentFreezeTest, AResumedGuestKnowsWhoItIs) {
  ASSERT_TRUE(freeze());
  ASSERT_TRUE(resume());
  EXPECT_EQ(run(agent_, shell("uname -n; cat /run/volt/generation")).out,
            "restored\n01010101010101010101010101010101 1\n");
  ASSERT_TRUE(freeze());
  AgentIdentity second = identity(0xAB);
  second.hostname = "";
  const auto resumed = resume(second);
  ASSERT_TRUE(resumed);
  EXPECT_EQ(resumed->resumed, 2U);
  EXPECT_EQ(run(agent_, shell("uname -n; cat /run/volt/generation")).out,
            "restored\nabababababababababababababababab 2\n");
}

TEST_F(AgentFreezeTest, ManyProcessesThatForkAreFrozenAtOnce) {
  const std::string loop = "while :; do /bin/true; done >/dev/null 2>&1 & ";
  run(agent_, shell(loop + loop + loop + loop));
  for (int i = 0; i < 5; ++i) {
    const auto frozen = freeze();
    ASSERT_TRUE(frozen) << frozen.error().context;
    EXPECT_TRUE(is_frozen());
    ASSERT_TRUE(resume());
  }
}

TEST_F(AgentFreezeTest, NothingElseIsAnsweredWhileItIsFrozen) {
  ASSERT_TRUE(freeze());
  EXPECT_EQ(run(agent_, shell("true")).error, "agent: EXEC: the guest is frozen");
  const auto again = freeze();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().sys_errno, EALREADY);
  EXPECT_TRUE(is_frozen());
  ASSERT_TRUE(resume());
  const auto resumed = resume();
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().sys_errno, EINVAL);
  EXPECT_EQ(run(agent_, shell("echo here")).out, "here\n");
}

TEST_F(AgentFreezeTest, OpenSessionsWaitAndGoOn) {
  auto exec = AgentExec::start(agent_.connect(), shell("echo up; read line; echo got $line"));
  ASSERT_TRUE(exec);
  Ran ran;
  follow(*exec, ran, [&] { return ran.out == "up\n"; });
  ASSERT_TRUE(freeze());
  const std::string line = "word\n";
  ASSERT_TRUE(exec->write_stdin(std::as_bytes(std::span(line))));
  const auto early = exec->next(Deadline::in_ms(50));
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, Code::kDeadline);
  ASSERT_TRUE(resume());
  follow(*exec, ran, [] { return false; });
  EXPECT_EQ(ran.out, "up\ngot word\n");
}

TEST_F(AgentFreezeTest, ASessionThatTheRestoreCutOffLosesItsCommand) {
  {
    const std::string ticks = agent_.folder() / "ticks";
    auto exec =
        AgentExec::start(agent_.connect(), shell("while :; do echo >> " + ticks + "; done"));
    ASSERT_TRUE(exec);
    ASSERT_TRUE(eventually([&] { return size() > 0; }));
    ASSERT_TRUE(freeze());
  }
  EXPECT_TRUE(is_frozen());
  ASSERT_TRUE(resume());
  EXPECT_TRUE(eventually([&] { return read_file(agent_.group() / "volt/cgroup.procs").empty(); }));
}

TEST_F(AgentFreezeTest, AResumeThatFailsThawsNothingAndMayComeAgain) {
  start_ticking();
  ASSERT_TRUE(freeze());
  write_file(agent_.folder() / "run/volt", "in the way");
  const auto failed = resume();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kGuestCrashed);
  EXPECT_NE(failed.error().context.find("/run/volt/generation"), std::string::npos)
      << failed.error().context;
  EXPECT_TRUE(is_frozen());
  const std::uintmax_t before = size();
  pause_ms(50);
  EXPECT_EQ(size(), before);
  fs::remove(agent_.folder() / "run/volt");
  ASSERT_TRUE(resume());
  EXPECT_TRUE(runs());
}

TEST_F(AgentFreezeTest, AClockThatCannotBeSetKeepsTheGuestFrozen) {
  ASSERT_TRUE(freeze());
  AgentIdentity tomorrow = identity();
  tomorrow.wall_ns += std::uint64_t{86'400} * 1'000'000'000;
  const auto resumed = resume(tomorrow);
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().sys_errno, EPERM);
  EXPECT_NE(resumed.error().context.find("clock"), std::string::npos) << resumed.error().context;
  EXPECT_TRUE(is_frozen());
  EXPECT_FALSE(fs::exists(agent_.folder() / "run/volt/generation"));
  EXPECT_TRUE(resume());
}

// As if it had been sent `ms` ago by the counter.
AgentIdentity sent_before(std::int64_t ms) {
  AgentIdentity late = identity();
  late.tsc -= static_cast<std::uint64_t>(ms) * late.tsc_khz;
  late.wall_ns -= static_cast<std::uint64_t>(ms * kMs);
  return late;
}

TEST_F(AgentFreezeTest, TheTimeIsRightHoweverLongTheMessageTook) {
  ASSERT_TRUE(freeze());
  const auto resumed = resume(sent_before(1'000));
  ASSERT_TRUE(resumed) << resumed.error().context;
  EXPECT_EQ(resumed->clock_step_ns, 0);
}

TEST_F(AgentFreezeTest, AClockIsNeverSetBack) {
  ASSERT_TRUE(freeze());
  AgentIdentity behind = sent_before(5'000);
  behind.tsc_khz = 0;  // then it came at once, and the host's clock is 5 s behind
  const auto resumed = resume(behind);
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().sys_errno, ERANGE);
  EXPECT_NE(resumed.error().context.find("ms ahead of the host's and is never set back"),
            std::string::npos)
      << resumed.error().context;
  EXPECT_TRUE(is_frozen());
  EXPECT_TRUE(resume());
}

TEST_F(AgentFreezeTest, ACounterThatMakesNoSenseKeepsTheGuestFrozen) {
  ASSERT_TRUE(freeze());
  for (const std::int64_t ms : {-60'000LL, 48LL * 3600 * 1000}) {
    const auto resumed = resume(sent_before(ms));
    ASSERT_FALSE(resumed);
    EXPECT_EQ(resumed.error().sys_errno, ERANGE);
    EXPECT_NE(resumed.error().context.find("counter"), std::string::npos)
        << resumed.error().context;
    EXPECT_TRUE(is_frozen());
  }
  EXPECT_TRUE(resume());
}

TEST_F(AgentFreezeTest, HooksRunAroundASnapshotInTheirOrder) {
  for (const char* name : {"10-a", "20-b", "30-c"}) {
    add_hook("before-snapshot.d", name, "");
    add_hook("after-restore.d", name, "");
  }
  write_file(agent_.folder() / "etc/volt/hooks/before-snapshot.d/README", "no program\n");
  ASSERT_TRUE(freeze());
  EXPECT_EQ(read_file(notes()),
            "30-c before-snapshot\n20-b before-snapshot\n10-a before-snapshot\n");
  fs::remove(notes());
  ASSERT_TRUE(resume());
  EXPECT_EQ(read_file(notes()), "10-a after-restore\n20-b after-restore\n30-c after-restore\n");
}

TEST_F(AgentFreezeTest, AFailingHookFailsTheFreezeAndTheOthersAreTold) {
  start_ticking();
  add_hook("before-snapshot.d", "10-never", "");
  add_hook("before-snapshot.d", "20-no", "exit 3");
  add_hook("after-restore.d", "10-go-on", "");
  const auto frozen = freeze();
  ASSERT_FALSE(frozen);
  EXPECT_EQ(frozen.error().context, "agent: hook 20-no ended with 3");
  EXPECT_TRUE(eventually([&] {
    return read_file(notes()) == "20-no before-snapshot\n10-go-on abandoned\n";
  })) << read_file(notes());
  EXPECT_TRUE(runs());
}

TEST_F(AgentFreezeTest, AHookThatHangsIsKilledInTime) {
  add_hook("before-snapshot.d", "10-hangs", "sleep 1000");
  const auto frozen = freeze_guest(agent_.connect(), Deadline::in_ms(2'000));
  ASSERT_FALSE(frozen);
  EXPECT_TRUE(frozen.error().sys_errno == ETIMEDOUT || frozen.error().code == Code::kDeadline)
      << frozen.error().context;
  EXPECT_EQ(run(agent_, shell("echo here")).out, "here\n");
}

TEST_F(AgentFreezeTest, AFreezeNobodyWaitsForIsAbandoned) {
  start_ticking();
  const std::string go = agent_.folder() / "go";
  add_hook("before-snapshot.d", "10-slow", "until [ -e " + go + " ]; do sleep 0.01; done");
  add_hook("after-restore.d", "10-go-on", "");
  {
    const agent_abi::Freeze request = {agent_abi::kVersion, 0, 60'000};
    auto stream = AgentStream::over(agent_.connect());
    ASSERT_TRUE(stream && stream->send(encode_agent_frame(agent_abi::Type::kFreeze,
                                                          std::as_bytes(std::span(&request, 1)))));
    ASSERT_TRUE(eventually([&] { return fs::exists(notes()); }));
  }
  write_file(go, "");
  EXPECT_TRUE(eventually([&] {
    return read_file(notes()) == "10-slow before-snapshot\n10-go-on abandoned\n";
  })) << read_file(notes());
  EXPECT_FALSE(is_frozen());
  EXPECT_TRUE(runs());
}

TEST_F(AgentFreezeTest, AHookThatFailsAfterTheThawIsToldApart) {
  start_ticking();
  add_hook("after-restore.d", "10-no", "kill -9 $$");
  ASSERT_TRUE(freeze());
  const auto resumed = resume();
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().code, Code::kGuestCrashed);
  EXPECT_EQ(resumed.error().context, "agent: hook 10-no was killed by signal 9");
  EXPECT_TRUE(runs());
}

TEST_F(AgentFreezeTest, AFrozenGuestCanBeShutDown) {
  ASSERT_TRUE(freeze());
  ASSERT_TRUE(shut_down_guest(agent_.connect(), {}, patient()));
  EXPECT_TRUE(WIFEXITED(agent_.wait()));
}

// Services, which need an /etc of the guest's own.
class AgentServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = NativeAgent::no_own_guest(); !why.empty()) GTEST_SKIP() << why;
  }
  void add(const std::string& name, const std::string& text) {
    write_program(agent_.folder() / "etc/volt/services.d" / name, "#!/bin/sh\n" + text + "\n");
  }
  NativeAgent agent_{NativeAgent::Kind::kOwnGuest};
};

TEST_F(AgentServiceTest, ReadyIsSaidOnceAllAreUp) {
  const std::string folder = agent_.folder();
  add("10-plain", "echo I am up; sleep 1000");
  // Each waits for the other: they are started at once.
  add("20-first.oneshot",
      "until [ -e " + folder + "/b ]; do sleep 0.01; done; : > " + folder + "/a");
  add("30-second.notify", ": > " + folder + "/b; until [ -e " + folder +
                              "/a ]; do sleep 0.01; done; echo up >&$VOLT_READY_FD; sleep 1000");
  const agent_abi::Ready ready = agent_.start();
  EXPECT_EQ(ready.version, agent_abi::kVersion);
  EXPECT_EQ(ready.failed_services, 0U) << agent_.console();
  EXPECT_GT(ready.mono_ns, 0U);
  EXPECT_TRUE(fs::exists(folder + "/a"));
  EXPECT_TRUE(eventually([&] {
    return agent_.console().find("10-plain: I am up\n") != std::string::npos;
  })) << agent_.console();
}

TEST_F(AgentServiceTest, FailedOnesAreCountedAndNamed) {
  add("10-good.oneshot", "exit 0");
  add("20-bad.oneshot", "exit 4");
  add("30-silent.notify", "exit 0");
  add("40-later", "exit 5");
  write_file(agent_.folder() / "etc/volt/services.d/README", "no program\n");
  EXPECT_EQ(agent_.start().failed_services, 2U);
  EXPECT_NE(agent_.console().find("service 20-bad.oneshot failed: ended with 4\n"),
            std::string::npos)
      << agent_.console();
  EXPECT_TRUE(eventually([&] {
    return agent_.console().find("service 40-later: ended with 5\n") != std::string::npos;
  }));
}

}  // namespace
}  // namespace volt::vmm
