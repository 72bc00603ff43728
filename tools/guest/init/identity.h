// What a guest learns when it runs on, before any of its processes does.
#pragma once

#include "tools/guest/init/frames.h"
#include "tools/guest/init/log.h"

namespace volt::init {

std::uint64_t wall_clock_ns();

// In this order: the kernel's generator, the clock, the hostname, /run/volt/generation. Stops at
// the first that fails.
bool take_identity(const ResumeRequest& request, agent_abi::Resumed& done, Failure& failure);

}  // namespace volt::init
