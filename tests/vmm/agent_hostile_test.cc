// A guest that lies to the client, and a host that lies to the agent.
#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "tests/vmm/native_agent.h"
#include "vmm/identity.h"

namespace volt::vmm {
namespace {

using agent_abi::Type;

template <typename T>
std::vector<std::byte> frame(Type type, const T& payload) {
  return encode_agent_frame(type, std::as_bytes(std::span(&payload, 1)));
}

void send_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

// ---- The guest lies. The test is the guest.

class HostileGuestTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    host_ = Fd(ends[0]);
    guest_ = Fd(ends[1]);
  }
  void guest_sends(std::span<const std::byte> bytes) { send_all(guest_.get(), bytes); }
  void guest_hangs_up() { guest_ = Fd(); }

  // How a command ends that gets these frames.
  Error error_of_exec() {
    auto exec = AgentExec::start(std::move(host_), {.arguments = {"true"}});
    if (!exec) return exec.error();
    for (;;) {
      const auto event = exec->next(patient());
      if (!event) return event.error();
      if (std::holds_alternative<AgentExit>(*event)) return {Code::kInvalid, 0, "it ended well"};
    }
  }
  Fd host_, guest_;
};

TEST_F(HostileGuestTest, AFrameThatIsTooLongEndsTheSession) {
  guest_sends(frame(Type::kStdout, agent_abi::Started{1}));
  const agent_abi::Head head = {agent_abi::kMaxPayload + 1,
                                static_cast<std::uint32_t>(Type::kStdout)};
  guest_sends(std::as_bytes(std::span(&head, 1)));
  EXPECT_EQ(error_of_exec().code, Code::kCorrupt);
}

TEST_F(HostileGuestTest, CreditForWhatWasNotSentEndsTheSession) {
  guest_sends(frame(Type::kCredit, agent_abi::Credit{1}));
  EXPECT_EQ(error_of_exec().context, "agent: it took more input than there was");
}

TEST_F(HostileGuestTest, AnswersToAnotherQuestionEndTheSession) {
  guest_sends(frame(Type::kFrozen, agent_abi::Frozen{1}));
  EXPECT_EQ(error_of_exec().context, "agent: an answer to something else");
}

TEST_F(HostileGuestTest, ACommandStartsOnce) {
  guest_sends(frame(Type::kStarted, agent_abi::Started{5}));
  guest_sends(frame(Type::kStarted, agent_abi::Started{5}));
  EXPECT_EQ(error_of_exec().context, "agent: it started twice");
}

TEST_F(HostileGuestTest, OneThatHangsUpIsToldFromOneThatIsSlow) {
  auto exec = AgentExec::start(std::move(host_), {.arguments = {"true"}});
  ASSERT_TRUE(exec);
  const auto slow = exec->next(Deadline::in_ms(20));
  ASSERT_FALSE(slow);
  EXPECT_EQ(slow.error().code, Code::kDeadline);
  guest_sends(frame(Type::kStarted, agent_abi::Started{5}));
  EXPECT_TRUE(exec->next(patient())) << "it can be asked again";
  guest_hangs_up();
  const auto gone = exec->next(patient());
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, Code::kGuestCrashed);
}

TEST_F(HostileGuestTest, WhatItSaidBeforeItHungUpIsHeard) {
  guest_sends(frame(Type::kExited, agent_abi::Exited{1, 5}));
  guest_hangs_up();
  auto exec = AgentExec::start(std::move(host_), {.arguments = {"true"}});
  ASSERT_TRUE(exec) << exec.error().context;
  ASSERT_TRUE(exec->signal(9));
  const auto event = exec->next(patient());
  ASSERT_TRUE(event) << event.error().context;
  EXPECT_EQ(std::get<AgentExit>(*event).value, 5);
}

TEST_F(HostileGuestTest, OneThatReadsNothingIsBusyAndFillsNoMemory) {
  auto exec = AgentExec::start(std::move(host_), {.arguments = {"true"}});
  ASSERT_TRUE(exec);
  const std::vector<std::byte> input(agent_abi::kStdinWindow * 2);
  const auto taken = exec->write_stdin(input);
  ASSERT_TRUE(taken);
  EXPECT_EQ(*taken, agent_abi::kStdinWindow);
  EXPECT_EQ(exec->stdin_room(), 0U);
  Result<> signalled;
  for (int i = 0; i < 1'000'000 && signalled; ++i) signalled = exec->signal(1);
  ASSERT_FALSE(signalled);
  EXPECT_EQ(signalled.error().code, Code::kBusy);
}

TEST_F(HostileGuestTest, AFrameInManyPiecesIsOneFrame) {
  auto exec = AgentExec::start(std::move(host_), {.arguments = {"true"}});
  ASSERT_TRUE(exec);
  const std::vector<std::byte> bytes = frame(Type::kExited, agent_abi::Exited{1, 5});
  for (const std::byte& byte : bytes) {
    const auto early = exec->try_next();
    ASSERT_TRUE(early) << early.error().context;
    EXPECT_FALSE(*early);
    guest_sends({&byte, 1});
  }
  EXPECT_TRUE(exec->next(patient()));
}

// Thawed and answered so many ms from now, by the guest's clock.
struct Times {
  std::int64_t thawed_ms, answered_ms;
};

class GuestClockTest : public HostileGuestTest, public testing::WithParamInterface<Times> {
 protected:
  // The host asked just now.
  Result<agent_abi::Resumed> resume() {
    AgentIdentity identity = {};
    identity.wall_ns = wall_clock_ns();
    const auto in = [&](std::int64_t ms) {
      return identity.wall_ns + static_cast<std::uint64_t>(ms * 1'000'000);
    };
    guest_sends(
        frame(Type::kResumed, agent_abi::Resumed{.clock_step_ns = 0,
                                                 .resumed = 1,
                                                 .thawed_ns = in(GetParam().thawed_ms),
                                                 .answered_ns = in(GetParam().answered_ms)}));
    return resume_guest(std::move(host_), identity, patient());
  }
};

using RightClockTest = GuestClockTest;
TEST_P(RightClockTest, IsTaken) {
  const auto resumed = resume();
  EXPECT_TRUE(resumed) << resumed.error().context;
}
INSTANTIATE_TEST_SUITE_P(Times, RightClockTest,
                         testing::Values(Times{0, 0}, Times{-90, -90}, Times{90, 90}));

using WrongClockTest = GuestClockTest;
TEST_P(WrongClockTest, FailsTheRestore) {
  const auto resumed = resume();
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().code, Code::kHostUnable);
  EXPECT_NE(resumed.error().context.find("the guest's clock is"), std::string::npos)
      << resumed.error().context;
}
// A minute ahead: more than this test ever takes.
INSTANTIATE_TEST_SUITE_P(Times, WrongClockTest,
                         testing::Values(Times{0, 60'000}, Times{60'000, 60'000}, Times{-101, 0},
                                         Times{-60'000, -60'000}));

// ---- The host lies. The agent must say so, and serve the next one.

class HostileHostTest : public testing::Test {
 protected:
  void SetUp() override { agent_.start(); }

  // What the agent says to these bytes.
  AgentFailure failure_of(std::span<const std::byte> bytes) {
    auto stream = AgentStream::over(agent_.connect());
    if (!stream || !stream->send(bytes)) return {};
    for (;;) {
      const auto answer = stream->receive(patient());
      if (!answer) return {0, {}, answer.error().context};
      if (const auto* failure = std::get_if<AgentFailure>(&*answer)) return *failure;
    }
  }
  std::vector<std::byte> endless() const { return *encode_exec({.arguments = {"sleep", "1000"}}); }
  static void append(std::vector<std::byte>& to, const std::vector<std::byte>& more) {
    to.insert(to.end(), more.begin(), more.end());
  }
  NativeAgent agent_;
};

TEST_F(HostileHostTest, FramesWithoutAPlaceAreRefusedByName) {
  EXPECT_EQ(failure_of(frame(Type::kSignal, agent_abi::Signal{9})).error, EPROTO);
  EXPECT_EQ(failure_of(frame(Type::kReady, agent_abi::Ready{})).error, EPROTO);
  EXPECT_EQ(failure_of(frame(Type::kFreeze, agent_abi::Freeze{7, 0, 0})).error, EPROTONOSUPPORT);
  EXPECT_EQ(failure_of(frame(static_cast<Type>(99), agent_abi::Freeze{})).error, EPROTO);
  std::vector<std::byte> twice = endless();
  append(twice, endless());
  EXPECT_EQ(failure_of(twice).error, EPROTO);
}

TEST_F(HostileHostTest, MoreInputThanTheWindowIsRefused) {
  std::vector<std::byte> bytes = endless();
  const std::vector<std::byte> piece(agent_abi::kMaxPayload);
  for (int i = 0; i < 5; ++i) append(bytes, encode_agent_frame(Type::kStdin, piece));
  EXPECT_EQ(failure_of(bytes).text, "STDIN: more than the window, or after its end");
  bytes = endless();
  append(bytes, encode_agent_frame(Type::kStdinEof, {}));
  append(bytes, encode_agent_frame(Type::kStdin, piece));
  EXPECT_EQ(failure_of(bytes).error, EPROTO);
}

TEST_F(HostileHostTest, NoBytesEndTheAgent) {
  std::mt19937 random(20261121);
  const std::vector<std::byte> good = endless();
  for (int round = 0; round < 400; ++round) {
    std::vector<std::byte> bytes = good;
    if (round % 2 == 0) bytes.resize(random() % 300);
    for (int i = 0; i < 3 && !bytes.empty(); ++i)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    const Fd connection = agent_.connect();
    send_all(connection.get(), bytes);
  }
  EXPECT_EQ(run(agent_, shell("echo here")).out, "here\n");
}

TEST_F(HostileHostTest, MoreConnectionsThanItServesWaitForNobody) {
  std::vector<Fd> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(agent_.connect());
  idle.clear();
  EXPECT_EQ(run(agent_, shell("echo here")).out, "here\n");
}

TEST_F(HostileHostTest, OneSessionTooManyIsToldSo) {
  std::vector<Fd> idle;
  for (int i = 0; i < 32; ++i) idle.push_back(agent_.connect());
  const Ran ran = run(agent_, shell("echo here"));
  EXPECT_EQ(ran.error, "agent: there are too many sessions");
}

}  // namespace
}  // namespace volt::vmm
