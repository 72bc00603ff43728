#include "vmm/identity.h"

#include <sys/random.h>
#include <time.h>

#include <cerrno>
#include <cstring>

namespace volt::vmm {
namespace {

std::uint64_t clock_ns(clockid_t clock) {
  timespec now;
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

Result<guest_abi::Identity> fresh_identity(std::uint64_t tsc_khz) {
  guest_abi::Identity identity = {};
  struct {
    std::uint64_t generation[2];
    std::uint8_t entropy[32];
  } random;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) return sys_error("getrandom");
  std::memcpy(identity.generation, random.generation, sizeof random.generation);
  std::memcpy(identity.entropy, random.entropy, sizeof random.entropy);
  identity.tsc_hz = tsc_khz * 1000;
  identity.wall_ns = wall_clock_ns();
  identity.mono_ns = monotonic_clock_ns();
  return identity;
}

std::uint64_t wall_clock_ns() {
  return clock_ns(CLOCK_REALTIME);
}
std::uint64_t monotonic_clock_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}

}  // namespace volt::vmm
