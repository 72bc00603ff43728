// When two time stamp counters pass for one: a guest that counts with the frequency of one must not
// notice the other.
#pragma once

#include <cstdint>

namespace volt::vmm {

// What clocks are corrected for anyway, and what KVM itself lets pass without scaling.
inline constexpr std::uint64_t kTscTolerancePpm = 250;

constexpr bool is_same_tsc(std::uint64_t khz, std::uint64_t other_khz) {
  const std::uint64_t apart = khz > other_khz ? khz - other_khz : other_khz - khz;
  return apart <= other_khz / 1'000'000 * kTscTolerancePpm +
                      other_khz % 1'000'000 * kTscTolerancePpm / 1'000'000;
}

}  // namespace volt::vmm
