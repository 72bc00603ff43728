// A part of a bench in a process of its own. It says one number when it has done its work, and
// stays until it is killed; none outlives the process that started it.
#pragma once

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include "bench/text_guest.h"
#include "vmm/os/fd.h"

namespace volt::bench {

class Child {
 public:
  enum class In {
    kThread,  // of its own: a fork takes no timers along, and each thread makes its own
    kMain,
  };

  // Before the first is started. exit() destroys nothing that a function holds, so it ends what was
  // started by itself; where this process is killed, the kernel does.
  static void end_all_at_exit() {
    bench_ = ::getpid();
    need(std::atexit([] {
           if (::getpid() != bench_) return;  // one of them that fails
           for (const pid_t pid : started_) ::kill(pid, SIGKILL);
           for (const pid_t pid : started_) ::waitpid(pid, nullptr, 0);
         }) == 0,
         "no exit handler");
  }

  explicit Child(const std::function<double()>& work, In in = In::kThread) {
    int ends[2];
    need(::pipe2(ends, O_CLOEXEC) == 0, "no pipe");
    output_ = Fd(ends[0]);
    const Fd input(ends[1]);
    pid_ = ::fork();
    need(pid_ >= 0, "no process");
    if (pid_ != 0) {
      started_.push_back(pid_);
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != bench_) ::_exit(1);
    const auto say = [&] {
      const double said = work();
      need(::write(input.get(), &said, sizeof said) == sizeof said, "nobody listens");
    };
    if (in == In::kMain) say();
    if (in == In::kThread) std::thread(say).join();
    for (;;) ::pause();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill();
    ::waitpid(pid_, nullptr, 0);
    std::erase(started_, pid_);
  }

  void kill() const { ::kill(pid_, SIGKILL); }
  double hear() const {
    double said = 0;
    need(::read(output_.get(), &said, sizeof said) == sizeof said, "a process of the bench failed");
    return said;
  }

 private:
  static inline std::vector<pid_t> started_;
  static inline pid_t bench_ = -1;

  Fd output_;
  pid_t pid_ = -1;
};

}  // namespace volt::bench
