// Commands through the agent: its own program, on this machine.
#include "vmm/agent_client.h"

#include <sys/syscall.h>

#include <algorithm>
#include <vector>

#include "tests/vmm/native_agent.h"

namespace volt::vmm {
namespace {

class AgentClientTest : public testing::Test {
 protected:
  void SetUp() override { agent_.start(); }
  NativeAgent agent_;
};

std::string numbers(std::size_t bytes) {
  std::string text;
  text.reserve(bytes + 16);
  for (std::size_t i = 0; text.size() < bytes; ++i) text += std::to_string(i) + "\n";
  text.resize(bytes);
  return text;
}

// Waits for the end of a process that is no child of ours.
bool ends(pid_t pid) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return errno == ESRCH;
  pollfd fd = {process.get(), POLLIN, 0};
  return ::poll(&fd, 1, 120'000) == 1;
}

TEST_F(AgentClientTest, StreamsAndTheCodeComeBack) {
  const Ran ran = run(agent_, shell("cat; echo wrong >&2; exit 7"), "hello\n");
  ASSERT_TRUE(ran.exit) << ran.error << agent_.console();
  EXPECT_EQ(ran.out, "hello\n");
  EXPECT_EQ(ran.err, "wrong\n");
  EXPECT_FALSE(ran.exit->by_signal);
  EXPECT_EQ(ran.exit->value, 7);
  EXPECT_GT(ran.pid, 0U);
}

TEST_F(AgentClientTest, EnvironmentAndDirectoryAreTheCommands) {
  AgentCommand command = shell("echo $GREETING $HOME; pwd");
  command.variables = {"GREETING=good day", "HOME=/nowhere"};
  command.directory = "/usr";
  EXPECT_EQ(run(agent_, command).out, "good day /nowhere\n/usr\n");
  const std::string names = run(agent_, {.arguments = {"env"}}).out;
  EXPECT_TRUE(names.starts_with("PATH=/usr/local/sbin:")) << names;
  EXPECT_EQ(std::ranges::count(names, '\n'), 2) << "nothing of the agent's own: " << names;
}

TEST_F(AgentClientTest, NotFoundAndNotExecutableDiffer) {
  write_file(agent_.folder() / "text", "no program\n");
  const Ran missing = run(agent_, {.arguments = {"there-is-no-such-program"}});
  const Ran text = run(agent_, {.arguments = {agent_.folder() / "text"}});
  AgentCommand nowhere = shell("true");
  nowhere.directory = "/no/such/directory";
  const Ran lost = run(agent_, nowhere);
  ASSERT_TRUE(missing.exit && text.exit && lost.exit);
  EXPECT_EQ(missing.exit->value, 127);
  EXPECT_EQ(missing.err, "volt-init: there-is-no-such-program: No such file or directory\n");
  EXPECT_EQ(missing.pid, 0U) << "it never started";
  EXPECT_EQ(text.exit->value, 126);
  EXPECT_EQ(lost.exit->value, 126);
  EXPECT_NE(lost.err.find("working directory"), std::string::npos) << lost.err;
}

TEST_F(AgentClientTest, ASignalEndsACommandAndIsToldAsOne) {
  auto exec = AgentExec::start(agent_.connect(), {.arguments = {"sleep", "1000"}});
  ASSERT_TRUE(exec);
  Ran ran;
  follow(*exec, ran, [&] { return ran.pid != 0; });
  ASSERT_TRUE(exec->signal(SIGTERM));
  follow(*exec, ran, [] { return false; });
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_TRUE(ran.exit->by_signal);
  EXPECT_EQ(ran.exit->value, SIGTERM);
  EXPECT_EQ(ran.exit->shell_code(), 143);
  EXPECT_FALSE(exec->next(patient())) << "nothing comes after the end";
}

TEST_F(AgentClientTest, ASignalReachesACommandThatReadsNothing) {
  auto exec = AgentExec::start(agent_.connect(), {.arguments = {"sleep", "1000"}});
  ASSERT_TRUE(exec);
  const std::string input = numbers(1 << 20);
  Ran ran;
  std::size_t sent = 0;
  // What the pipe takes is given back; then the window is shut for good.
  while (sent < agent_abi::kStdinWindow + 60'000) {
    const auto taken = exec->write_stdin(std::as_bytes(std::span(input).subspan(sent)));
    ASSERT_TRUE(taken);
    sent += *taken;
    if (*taken == 0) follow(*exec, ran, [&] { return exec->stdin_room() > 0; });
  }
  ASSERT_TRUE(exec->signal(SIGKILL));
  follow(*exec, ran, [] { return false; });
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_EQ(ran.exit->value, SIGKILL);
}

TEST_F(AgentClientTest, TenMiBGoBothWays) {
  const std::string input = numbers(10 << 20);
  const Ran ran = run(agent_, {.arguments = {"cat"}}, input);
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_EQ(ran.exit->value, 0);
  EXPECT_TRUE(ran.out == input) << ran.out.size();
}

TEST_F(AgentClientTest, AReaderThatWaitsHoldsItsCommandAndNobodyElse) {
  auto exec =
      AgentExec::start(agent_.connect(), shell("head -c 10485760 /dev/zero; echo done >&2"));
  ASSERT_TRUE(exec);
  Ran ran;
  follow(*exec, ran, [&] { return !ran.out.empty(); });
  for (int i = 0; i < 20; ++i) ASSERT_EQ(run(agent_, shell("echo here")).out, "here\n");
  EXPECT_EQ(ran.err, "");
  follow(*exec, ran, [] { return false; });
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_EQ(ran.out.size(), 10U << 20);
  EXPECT_EQ(ran.err, "done\n");
}

TEST_F(AgentClientTest, InputNobodyReadsIsDropped) {
  const Ran ran = run(agent_, shell("exec <&-; sleep 0.2; echo end"), numbers(1 << 20));
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_EQ(ran.out, "end\n");
}

TEST_F(AgentClientTest, AllThatACommandWroteComesBeforeItsEnd) {
  for (int i = 0; i < 50; ++i) {
    const Ran ran = run(agent_, shell("head -c 60000 /dev/zero; head -c 50000 /dev/zero >&2"));
    ASSERT_TRUE(ran.exit) << ran.error;
    ASSERT_EQ(ran.out.size(), 60'000U);
    ASSERT_EQ(ran.err.size(), 50'000U);
  }
}

TEST_F(AgentClientTest, AProcessLeftBehindDoesNotHoldTheSession) {
  const Ran ran = run(agent_, shell("sleep 1000 & echo $!"));
  ASSERT_TRUE(ran.exit) << ran.error;
  const pid_t left = static_cast<pid_t>(std::stol(ran.out));
  EXPECT_EQ(::kill(left, 0), 0) << "it runs on";
  ::kill(left, SIGKILL);
}

TEST_F(AgentClientTest, ALostConnectionKillsTheProcessGroup) {
  Ran ran;
  {
    auto exec = AgentExec::start(agent_.connect(), shell("sleep 1000 & echo $!; wait"));
    ASSERT_TRUE(exec);
    follow(*exec, ran, [&] { return !ran.out.empty(); });
  }
  EXPECT_TRUE(ends(static_cast<pid_t>(std::stol(ran.out))));
  EXPECT_TRUE(ends(static_cast<pid_t>(ran.pid)));
}

TEST_F(AgentClientTest, ATerminalHasASizeThatCanChange) {
  AgentCommand command =
      shell("trap 'stty size; kill $!; exit 3' WINCH; tty; stty size; sleep 1000 & echo ok; wait");
  command.terminal = agent_abi::Resize{24, 80};
  auto exec = AgentExec::start(agent_.connect(), command);
  ASSERT_TRUE(exec);
  Ran ran;
  follow(*exec, ran, [&] { return ran.out.ends_with("ok\r\n"); });
  EXPECT_EQ(ran.out.find("/dev/pts/"), 0U) << ran.out;
  EXPECT_NE(ran.out.find("24 80\r\n"), std::string::npos) << ran.out;
  ASSERT_TRUE(exec->resize({50, 132}));
  follow(*exec, ran, [] { return false; });
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_NE(ran.out.find("50 132\r\n"), std::string::npos) << ran.out;
  EXPECT_EQ(ran.exit->value, 3);
}

TEST_F(AgentClientTest, ATerminalEchoesAndTakesAnEnd) {
  AgentCommand command = {.arguments = {"cat"}};
  command.terminal = agent_abi::Resize{24, 80};
  const Ran ran = run(agent_, command, "hi\n");
  ASSERT_TRUE(ran.exit) << ran.error;
  EXPECT_EQ(ran.exit->value, 0);
  EXPECT_EQ(ran.out, "hi\r\nhi\r\n");
}

TEST_F(AgentClientTest, ACommandRunsAsAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "not root";
  AgentCommand command = {.arguments = {"sh", "-c", "id -u; id -g; id -G"}};
  command.uid = 1234, command.gid = 4321;
  EXPECT_EQ(run(agent_, command).out, "1234\n4321\n4321\n");
}

TEST_F(AgentClientTest, CommandsRunAtOnce) {
  std::vector<AgentExec> running;
  for (int i = 0; i < 24; ++i) {
    auto exec = AgentExec::start(agent_.connect(), shell("read line; echo got $line"));
    ASSERT_TRUE(exec);
    running.push_back(*std::move(exec));
  }
  for (std::size_t i = running.size(); i-- > 0;) {
    const std::string line = std::to_string(i) + "\n";
    ASSERT_TRUE(running[i].write_stdin(std::as_bytes(std::span(line))));
    Ran ran;
    follow(running[i], ran, [] { return false; });
    EXPECT_EQ(ran.out, "got " + line);
  }
}

TEST_F(AgentClientTest, ItTakesCommandsWithManyWords) {
  AgentCommand command = shell("echo $# $V999");
  for (int i = 0; i <= 2000; ++i) command.arguments.push_back(std::to_string(i));
  for (int i = 0; i < 1000; ++i)
    command.variables.push_back("V" + std::to_string(i) + "=" + std::to_string(i));
  EXPECT_EQ(run(agent_, command).out, "2000 999\n");
  command.variables.push_back("BIG=" + std::string(agent_abi::kMaxPayload, 'x'));
  EXPECT_NE(run(agent_, command).error.find("over 64 KiB"), std::string::npos);
}

TEST_F(AgentClientTest, ShutdownEndsIt) {
  const auto done = shut_down_guest(agent_.connect(), {}, patient());
  ASSERT_TRUE(done) << done.error().context;
  const int status = agent_.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(AgentClientTest, ASocketOfTestsAloneFreezesNothing) {
  const auto frozen = freeze_guest(agent_.connect(), patient());
  ASSERT_FALSE(frozen);
  EXPECT_EQ(frozen.error().sys_errno, ENOTSUP);
}

}  // namespace
}  // namespace volt::vmm
