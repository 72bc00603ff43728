// A piece of a test in a process of its own: one that is killed, that mounts, that is told to stop.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>

namespace volt::test {

// What a child uses in place of EXPECT, which would only fail in the child.
inline void check(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

// Killed and reaped at the latest when it is destroyed.
class Child {
 public:
  // The child runs `body`, which may take the Child it runs in, and ends; what `body` throws is its
  // failure().
  template <typename Body>
  explicit Child(const Body& body) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork");
    output_ = ends[pid_ == 0 ? 1 : 0];
    ::close(ends[pid_ == 0 ? 0 : 1]);
    if (pid_ != 0) return;
    // In a thread of its own: a fork takes no timers along, and each thread makes its own.
    std::string failure;
    std::thread([&] {
      try {
        if constexpr (std::is_invocable_v<const Body&, const Child&>) {
          body(*this);
        } else {
          body();
        }
      } catch (const std::exception& error) {
        failure = error.what();
      }
    }).join();
    if (!failure.empty()) say(failure);
    ::_exit(failure.empty() ? 0 : 1);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill(SIGKILL);
    reap(0);
    ::close(output_);
  }

  void kill(int signal) const {
    if (!ended_) ::kill(pid_, signal);
  }
  bool runs() { return !reap(WNOHANG); }
  // Waits for its end. Empty if all went well, and if it was killed.
  std::string failure() {
    std::string text;
    char part[512];
    ssize_t got;
    while ((got = ::read(output_, part, sizeof part)) > 0) {
      text.append(part, static_cast<std::size_t>(got));
    }
    reap(0);
    const bool good = WIFSIGNALED(status_) ? WTERMSIG(status_) == SIGKILL : status_ == 0;
    return good || !text.empty() ? text : "ended with status " + std::to_string(status_);
  }
  bool was_killed() const { return ended_ && WIFSIGNALED(status_); }
  // Waits for something it says, or for its end; false if the time runs out before.
  bool hears(const timespec* at_most) const {
    pollfd output = {.fd = output_, .events = POLLIN, .revents = 0};
    return ::ppoll(&output, 1, at_most, nullptr) > 0;
  }
  char next() const {
    char one = 0;
    [[maybe_unused]] const ssize_t got = ::read(output_, &one, 1);
    return one;
  }

  // In the child: heard by the parent.
  void say(const std::string& text) const {
    [[maybe_unused]] const ssize_t put = ::write(output_, text.data(), text.size());
  }

 private:
  bool reap(int flags) {
    if (!ended_) ended_ = ::waitpid(pid_, &status_, flags) == pid_;
    return ended_;
  }

  pid_t pid_ = -1;
  int output_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

}  // namespace volt::test
