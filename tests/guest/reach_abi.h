// What the `reach` guest can be asked to do to an address, shared with the test that asks.
#pragma once

#include <cstdint>

namespace volt::test::reach {

// The request's function, and its arguments: kind, address, value.
inline constexpr std::uint32_t kFunction = 100;

enum class Access : std::uint64_t {
  kLoad8,
  kLoad16,
  kLoad32,
  kLoad64,
  kStore8,
  kStore16,
  kStore32,
  kStore64,
  kSignExtend,
  kAdd,        // add %reg, mem
  kIncrement,  // incl mem
  kCompare,    // cmp mem, %reg
  kXchg,
  kLockXadd,
  kLockCmpxchg,
  kSseLoad,         // movups
  kSseStore,        // movups
  kSseAlignedLoad,  // movaps
  kNonTemporal,     // movnti
  kRepMovsTo,
  kRepMovsFrom,
  kRepStos,
  kPushPop,  // with the stack there
  kCount,
};

}  // namespace volt::test::reach
