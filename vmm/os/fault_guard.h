// Host access to memory whose pages may turn out not to exist: a mapped file that was cut short, a
// page that its pager poisoned or forbade. Such an access raises SIGBUS or SIGSEGV; here it becomes
// an Error instead.
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

}  // namespace volt
