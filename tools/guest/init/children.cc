#include "tools/guest/init/children.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/files.h"

namespace volt::init {

int Children::open() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) sigaddset(&wanted, number);
  if (sigprocmask(SIG_SETMASK, &wanted, nullptr) < 0) return errno;
  signal(SIGPIPE, SIG_IGN);
  signals_ = Fd(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  return signals_.valid() ? 0 : errno;
}

int Children::next_signal() const {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == sizeof info)
    if (info.ssi_signo != SIGCHLD) return static_cast<int>(info.ssi_signo);
  return 0;
}

bool Children::next(pid_t& pid, int& status) const {
  do {
    pid = waitpid(-1, &status, WNOHANG);
  } while (pid < 0 && errno == EINTR);
  return pid > 0;
}

bool Children::wait(std::int64_t deadline_ms) const {
  const std::int64_t left = std::max(deadline_ms - now_ms(), std::int64_t{0});
  pollfd fd = {signals_.get(), POLLIN, 0};
  return poll(&fd, 1, static_cast<int>(std::min(left, std::int64_t{60'000}))) > 0;
}

}  // namespace volt::init
