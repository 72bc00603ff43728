// Memory whose pages may turn out not to exist: a mapped file that was cut short, a page that its
// pager poisoned or forbade. Touching one raises SIGBUS or SIGSEGV; here it becomes an Error, or a
// note, instead.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "vmm/os/error.h"

namespace volt {

// Runs `body` on this thread. If a page it touches cannot be had, `body` is abandoned where it
// stands and kPageLost is returned; so it must own nothing (no destructors, no locks) meanwhile.
Result<> run_guarded(void (*body)(void*), void* argument);

template <typename F>
Result<> guarded(F&& body) {
  using Body = std::remove_reference_t<F>;
  return run_guarded([](void* argument) { (*static_cast<Body*>(argument))(); }, &body);
}

// memcpy whose source or target may lack pages.
Result<> guarded_copy(std::span<std::byte> to, std::span<const std::byte> from);

// While it lives, a SIGBUS that a system call of this thread earns by meeting a poisoned page is
// noted instead of ending the process. For KVM_RUN: a guest's touch of such a page makes KVM send
// the signal and return EINTR, and it would do so for ever. Costs nothing but two stores, once the
// thread has had its first.
class PoisonWatch {
 public:
  PoisonWatch();
  PoisonWatch(const PoisonWatch&) = delete;
  PoisonWatch& operator=(const PoisonWatch&) = delete;
  ~PoisonWatch();
  bool struck() const { return struck_; }

 private:
  friend struct PoisonNote;
  PoisonWatch* outer_;
  volatile bool struck_ = false;  // written by this thread's signal handler
};

}  // namespace volt
