// Time from one step of some work to the next, as reports give it.
#pragma once

#include <cstdint>
#include <utility>

#include "vmm/identity.h"

namespace volt::vmm {

class Laps {
 public:
  // Nanoseconds since the last lap, or since it was made.
  std::uint64_t lap() {
    const std::uint64_t now = monotonic_clock_ns();
    return now - std::exchange(since_, now);
  }
  std::uint64_t lap_us() { return lap() / 1000; }

 private:
  std::uint64_t since_ = monotonic_clock_ns();
};

}  // namespace volt::vmm
