// Processes that ended: every one is collected, and told to whom it belonged.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "tools/guest/init/poll_set.h"
#include "vmm/os/fd.h"

namespace volt::init {

class Children {
 public:
  // Receives SIGCHLD, and the signals that ask init to end the guest. errno or 0.
  int open();

  void watch(PollSet& set) { ticket_ = set.add(signals_.get(), POLLIN); }
  bool woke(const PollSet& set) const { return set.readable(ticket_); }
  // A signal that came and is not SIGCHLD; 0 if there is no more.
  int next_signal() const;

  // The next one that ended; false if there is none.
  bool next(pid_t& pid, int& status) const;

  // Waits up to `deadline_ms` (of now_ms()) for something to collect.
  bool wait(std::int64_t deadline_ms) const;

 private:
  Fd signals_;
  PollSet::Ticket ticket_ = PollSet::kNone;
};

}  // namespace volt::init
