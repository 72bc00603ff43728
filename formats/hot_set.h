// Hot set (file `hotset`): the pages a restored guest touches first, in the order of first touch,
// and whether it had written them when the recording ended. An attachment of a snapshot: not named
// by its manifest, so recording it again changes no digest. All integers little-endian.
//   off size field
//     0    8 magic          "VOLTHOT" and a zero byte
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    12    4 page_bytes     4096
//    16    8 page_count     at most kMaxHotPages
//    24    4 must_be_zero   a set bit means: this file needs a newer reader
//    28    4 reserved       zero
//    32   32 digest         the index's digest: the memory whose pages these are
//    64   16 head_sum       XXH3-128 over bytes 0..63
// then page_count words of 8 bytes and the XXH3-128 over all of them, seeded with the first 8 bytes
// of the digest. word: bits 0..51 guest-physical page number (below 2^40), bit 63 written, the
// others zero. A page that is listed twice does no harm, so nobody looks for it; nor does one the
// guest has not, which whoever prefetches must leave out.
// Readers check in this order and stop at the first failure: the head as the index's, with
// page_bytes and page_count against the file size; the words' sum; each word. It is read whole: 8
// MiB at most, and needed at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/digest.h"
#include "formats/fixed_head.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kHotSetHeadBytes = kFixedHeadBytes;
inline constexpr std::uint64_t kHotPageBytes = 4096;
inline constexpr std::uint64_t kMaxHotPages = std::uint64_t{1} << 20;

struct HotPage {
  std::uint64_t page;  // guest-physical address / kHotPageBytes
  bool written;
  bool operator==(const HotPage&) const = default;
};

struct HotSet {
  Sha256 digest;
  std::vector<HotPage> pages;
};

std::vector<std::byte> encode_hot_set(const HotSet& set);
Result<HotSet> decode_hot_set(std::span<const std::byte> file);

}  // namespace volt::formats
