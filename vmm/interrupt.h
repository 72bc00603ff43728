// Stops a running vCPU from outside: at its deadline, or when the user asks the whole program to
// stop. A signal makes KVM_RUN return; one that lands just before KVM_RUN would be lost, so the
// handler also sets immediate_exit in the kvm_run page that its thread is bound to.
#pragma once

#include <pthread.h>

#include <csignal>

#include <cstdint>

#include "vmm/kvm_abi.h"
#include "vmm/os/error.h"

namespace volt::vmm {

// Nanoseconds of CLOCK_MONOTONIC; kNever for none.
struct Deadline {
  static constexpr std::uint64_t kNever = UINT64_MAX;
  std::uint64_t at_ns = kNever;

  static Deadline in_ms(std::uint64_t ms);
  bool passed() const;
  // -1 for never.
  std::int64_t left_ms() const;
  // For poll(2) in a loop that looks at check_stop(): 200 at most, since a stop signal may come
  // between that look and the poll.
  int poll_ms() const;
};

// SIGINT, SIGTERM and SIGHUP.
sigset_t stop_signals();
// From here on they only set a flag (and end KVM_RUN); a second one kills. One that is ignored, as
// nohup(1) does with SIGHUP, stays so. For main().
void stop_on_signals();
bool stop_requested();
// The signal that asked, SIGINT if none did.
int stop_signal();
// kInterrupted once the user asked to stop: for loops that take long.
Result<> check_stop();
// The signal was passed on to whom it was for: nothing here stops for it any more.
void stop_answered();

// While it lives, this thread's deadline and stop signals end KVM_RUN on `page`'s vCPU.
class Interruptible {
 public:
  static Result<Interruptible> arm(kvm_run& page, Deadline deadline);
  Interruptible(Interruptible&& other) noexcept;
  Interruptible& operator=(Interruptible&&) = delete;
  ~Interruptible();

 private:
  explicit Interruptible(kvm_run& page) : page_(&page) {}
  kvm_run* page_;
};

// For CPUs with a thread of their own. nudge() ends KVM_RUN of an armed thread, or its next one;
// listen_for_nudges() comes first, once for a process. Threads that shield_from_stop_signals()
// leave those to the one that waits for them.
Result<> listen_for_nudges();
void nudge(pthread_t thread);
void shield_from_stop_signals();

}  // namespace volt::vmm
