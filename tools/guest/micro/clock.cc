#include "tools/guest/micro/clock.h"

namespace volt::guest {

[[gnu::hot]] void Clock::anchor(std::uint64_t tsc, const guest_abi::Identity& identity) {
  tsc_ = tsc;
  wall_ns_ = identity.wall_ns;
  mono_ns_ = identity.mono_ns;
  // Rounding loses less than hz / 4e18 of the time: 1 ns in a second at 4 GHz.
  constexpr std::uint64_t kSecond = std::uint64_t{1'000'000'000} << 32;
  ns_per_cycle_ = identity.tsc_hz == 0 ? 0 : kSecond / identity.tsc_hz;
}

[[gnu::hot]] std::uint64_t Clock::elapsed_ns(std::uint64_t tsc) const {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(tsc - tsc_) * ns_per_cycle_ >> 32);
}

}  // namespace volt::guest
