#include "tools/guest/init/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace volt::init {

namespace {

constexpr int kNotifyFd = 3;

int command_group = -1;

// All below runs in the new process, which ends at the first thing that fails.
class Starting {
 public:
  explicit Starting(int report) : report_(report) {}

  [[noreturn]] void fail(StartError::Step step) const {
    const StartError error = {step, errno};
    if (write(report_, &error, sizeof error) < 0) _exit(126);
    _exit(exit_code_of(error));
  }

  // Signals as a program expects them, whatever the agent does with its own.
  void reset_signals() const {
    for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
  }

  void enter_group() const {
    if (command_group >= 0 && write(command_group, "0", 1) != 1) fail(StartError::Step::kGroup);
  }

  void take_streams(const Streams& streams) const {
    setsid();
    if (dup2(streams.in, 0) < 0 || dup2(streams.out, 1) < 0 || dup2(streams.error, 2) < 0)
      fail(StartError::Step::kStreams);
    if (streams.tty && ioctl(0, TIOCSCTTY, 0) < 0) fail(StartError::Step::kStreams);
    if (streams.notify < 0) return;
    if (dup2(streams.notify, kNotifyFd) < 0) fail(StartError::Step::kStreams);
  }

  void become(uid_t uid, gid_t gid) const {
    if (uid == 0 && gid == 0) return;
    if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
      fail(StartError::Step::kUser);
  }

  void base_environment(bool tty) const {
    static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    static char home[] = "HOME=/";
    static char term[] = "TERM=xterm-256color";
    if (clearenv() != 0 || putenv(path) != 0 || putenv(home) != 0 || (tty && putenv(term) != 0))
      fail(StartError::Step::kProgram);
  }

  [[noreturn]] void run(const Exec& exec) const {
    static char* arguments[agent_abi::kMaxStrings + 1];
    base_environment(exec.tty());
    char* text = const_cast<char*>(reinterpret_cast<const char*>(exec.strings.data()));
    for (std::uint32_t i = 0; i < exec.head.argument_count; ++i, text += strlen(text) + 1)
      arguments[i] = text;
    for (std::uint32_t i = 0; i < exec.head.variable_count; ++i, text += strlen(text) + 1)
      if (putenv(text) != 0) fail(StartError::Step::kProgram);
    execvp(arguments[0], arguments);
    fail(StartError::Step::kProgram);
  }

 private:
  int report_;
};

// In the parent: the child and its report; in the child: returns 0.
pid_t begin(Fd& report, Fd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return -1;
  report = Fd(ends[0]);
  write_end = Fd(ends[1]);
  fcntl(report.get(), F_SETFL, O_NONBLOCK);
  return fork();
}

}  // namespace

const char* step_name(StartError::Step step) {
  switch (step) {
    case StartError::Step::kGroup:
      return "control group";
    case StartError::Step::kStreams:
      return "streams";
    case StartError::Step::kUser:
      return "user";
    case StartError::Step::kDirectory:
      return "working directory";
    case StartError::Step::kProgram:
      return "program";
  }
  return "?";
}

int exit_code_of(const StartError& error) {
  return error.step == StartError::Step::kProgram && error.error == ENOENT ? 127 : 126;
}

void set_command_group(int procs_fd) {
  command_group = procs_fd;
}

Child start_command(const Exec& exec, const Streams& streams) {
  Fd report, write_end;
  const pid_t pid = begin(report, write_end);
  if (pid != 0) return {pid, std::move(report)};
  const Starting starting(write_end.get());
  starting.reset_signals();
  starting.enter_group();
  starting.take_streams(streams);
  starting.become(exec.head.uid, exec.head.gid);
  if (chdir(exec.directory) < 0) starting.fail(StartError::Step::kDirectory);
  starting.run(exec);
}

Child start_program(const char* path, const char* event, const Streams& streams) {
  Fd report, write_end;
  const pid_t pid = begin(report, write_end);
  if (pid != 0) return {pid, std::move(report)};
  const Starting starting(write_end.get());
  starting.reset_signals();
  starting.enter_group();
  starting.take_streams(streams);
  starting.base_environment(false);
  if (setenv("VOLT_EVENT", event, 1) != 0) starting.fail(StartError::Step::kProgram);
  if (streams.notify >= 0 && setenv("VOLT_READY_FD", "3", 1) != 0)
    starting.fail(StartError::Step::kProgram);
  if (chdir("/") < 0) starting.fail(StartError::Step::kDirectory);
  const char* const arguments[] = {path, nullptr};
  execv(path, const_cast<char* const*>(arguments));
  starting.fail(StartError::Step::kProgram);
}

}  // namespace volt::init
