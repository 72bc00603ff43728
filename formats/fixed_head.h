// The head of fixed length that index, unit table, pack, hot set and archive begin with. All
// integers little-endian.
//   off size field
//     0    8 magic          one per kind of file
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    64   16 head_sum       XXH3-128 over bytes 0..63
// and 4 bytes must_be_zero where the format says; the rest is the format's own. Check order, first
// failure wins: length, magic, major, head_sum, must_be_zero, then the format's own fields. The sum
// comes before must_be_zero, unlike in head.h: it covers nothing but these 80 bytes, so damage
// never passes for a newer format.
#pragma once

#include <cstddef>
#include <span>

#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kFixedHeadBytes = 80;
inline constexpr std::size_t kSummedHeadBytes = 64;

struct FixedHead {
  const char* magic;  // 7 characters and a zero byte
  const char* title;
  std::size_t must_be_zero_at;
};

// Puts magic, version and sum around the fields that are in `head` already.
void seal_head(const FixedHead& kind, std::span<std::byte> head);
// `bytes` begin with the head; more may follow.
Result<> check_fixed_head(const FixedHead& kind, std::span<const std::byte> bytes);

// Bytes 64..79 for bytes 0..63, as heads have it and a pack's tail too.
void put_head_sum(std::span<std::byte> head);
bool head_sum_holds(std::span<const std::byte> head);

// What reserved bytes must be.
bool all_zero(std::span<const std::byte> bytes);

}  // namespace volt::formats
