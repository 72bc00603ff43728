// What no two virtual machines may share: generation, entropy, and the clocks of the moment.
#pragma once

#include <cstdint>

#include "vmm/guest_abi.h"
#include "vmm/os/error.h"

namespace volt::vmm {

// New for every boot and every restore. Fails where the kernel has no entropy to give.
Result<guest_abi::Identity> fresh_identity(std::uint64_t tsc_khz);

std::uint64_t wall_clock_ns();
std::uint64_t monotonic_clock_ns();

}  // namespace volt::vmm
