// Crashes on purpose, each of another kind, so that tests see the host survive and name them all.
#pragma once

#include <cstdint>

#include "vmm/guest_abi.h"

namespace volt::guest {

// Returns only if `kind` is none, or if it is kUnbacked and the VMM makes up a value.
void crash(guest_abi::CrashKind kind, std::uint64_t ram_bytes);

}  // namespace volt::guest
