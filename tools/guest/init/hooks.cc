#include "tools/guest/init/hooks.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/files.h"
#include "tools/guest/init/process.h"

namespace volt::init {

namespace {

// Other children that end meanwhile are collected by the loop, later.
bool wait_for(pid_t pid, std::int64_t deadline_ms, int& status) {
  const Fd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  pollfd fd = {process.get(), POLLIN, 0};
  for (;;) {
    const std::int64_t left = std::clamp<std::int64_t>(deadline_ms - now_ms(), 0, 60'000);
    const int ready = process.valid() ? poll(&fd, 1, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready > 0) break;
    if (process.valid() && deadline_ms > now_ms()) continue;
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return false;
  }
  return waitpid(pid, &status, 0) == pid;
}

bool run_hook(const char* name, const char* path, const char* event, std::int64_t deadline_ms,
              Failure& failure) {
  const Child child = start_program(path, event, {kNullFd, STDERR_FILENO, STDERR_FILENO});
  if (child.pid < 0) return failure.set(errno, "hook %s: %s", name, reason(errno));
  int status = 0;
  if (!wait_for(child.pid, deadline_ms, status))
    return failure.set(ETIMEDOUT, "hook %s did not end in time", name);
  if (WIFSIGNALED(status))
    return failure.set(ECHILD, "hook %s was killed by signal %d", name, WTERMSIG(status));
  if (WEXITSTATUS(status) != 0)
    return failure.set(ECHILD, "hook %s ended with %d", name, WEXITSTATUS(status));
  return true;
}

}  // namespace

bool run_hooks(const char* directory, const char* event, Order order, std::int64_t deadline_ms,
               Failure& failure) {
  static Names names;
  const int error = names.read(directory);
  if (error == ENOENT) return true;
  if (error != 0) return failure.set(error, "%s: %s", directory, reason(error));
  for (std::size_t i = 0; i < names.count; ++i) {
    const char* name = names.names[order == Order::kForward ? i : names.count - 1 - i];
    const Path path(directory, name);
    if (!is_program(path.text)) continue;
    if (!run_hook(name, path.text, event, deadline_ms, failure)) return false;
  }
  return true;
}

}  // namespace volt::init
