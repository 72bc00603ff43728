// The guest's end.
#pragma once

#include <cstdint>

#include "tools/guest/init/children.h"

namespace volt::init {

struct Shutdown {
  bool reboot = false;
  bool frozen = false;  // nobody can take a SIGTERM, and nobody shall run again
  std::uint32_t grace_ms = 2'000;
  bool by_signal = false;  // of the guest's; otherwise the host has asked
};

// As PID 1: ends every process, writes back, unmounts, and switches off. Does not return.
[[noreturn]] void end_guest(const Shutdown& how, const Children& children);

// Started by a distribution's init: asks that one. Does not return.
[[noreturn]] void ask_for_end(const Shutdown& how);

}  // namespace volt::init
