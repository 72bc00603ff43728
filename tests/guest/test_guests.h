// Guests that only tests run, as ELF files in this program's own memory.
#pragma once

#include <cstddef>
#include <span>

namespace volt::test {

// Its state is in its registers, and its note has no resume entry (exact_abi.h).
std::span<const std::byte> exact_image();
// Writes garbage into the window and rings random doorbells; BootConfig::seed says which.
std::span<const std::byte> nonsense_image();
// Reaches for any address in any way it is asked to (reach_abi.h).
std::span<const std::byte> reach_image();

}  // namespace volt::test
