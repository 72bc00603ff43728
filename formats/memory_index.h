// Memory index: where each unit of one snapshot's memory lives, and its sum. Written once, never
// edited; mapped and searched in place. All integers little-endian.
//   off size field
//     0    8 magic          "VOLTIDX" and a zero byte
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    12    4 unit_bytes     a power of two, 4 KiB to 2 MiB
//    16    8 entry_count    at most kMaxMemoryBytes / unit_bytes
//    24    4 must_be_zero   a set bit means: this file needs a newer reader
//    28    4 reserved       zero
//    32   32 digest         SHA-256 over unit_bytes (8 bytes) and all entries without `place`
//    64   16 head_sum       XXH3-128 over bytes 0..63
// then blocks of 128 entries (the last may be shorter), each followed by its own XXH3-128, seeded
// with its number plus the first 8 bytes of the digest (formats/summed_blocks.h). entry, 32 bytes,
// strictly ascending by unit; a unit without entry is zero:
//     0    8 unit           guest-physical address / unit_bytes; the address is below 2^52
//     8   16 sum            XXH3-128 over the unit's bytes as the guest sees them
//    24    8 place          where its bytes are: the offset in the memory file; the unit ends at or
//                           before kMaxMemoryBytes
// Canonical: the same memory gives the same entries (but for `place`), so the digest names the
// content.
// Readers check in this order and stop at the first failure: file size against the head, magic,
// major, head_sum, must_be_zero, unit_bytes, reserved, entry_count against the file size (by
// division, it can overflow); then per block, when it is first used, its sum, its order and its
// entries' limits. Only check_all() compares neighbouring blocks and the digest: damage cannot get
// past the sums, and an index that lies in order to be searched wrongly is found before it is
// trusted, not at each fault.
// Why a flat array: opening costs the same for every size and nothing is parsed on the fault path.
// Downside: no way to change one entry; an index is written anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "formats/digest.h"
#include "formats/fixed_head.h"
#include "formats/summed_blocks.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kIndexHeadBytes = kFixedHeadBytes;
inline constexpr std::uint64_t kDefaultUnitBytes = 64 << 10;

// A power of two, 4 KiB to 2 MiB.
bool is_unit_size(std::uint64_t bytes);

struct IndexEntry {
  std::uint64_t unit;
  Xxh128 sum;
  std::uint64_t place;
  bool operator==(const IndexEntry&) const = default;
};
static_assert(sizeof(IndexEntry) == 32 && alignof(IndexEntry) == 8);
static_assert(std::has_unique_object_representations_v<IndexEntry>);

// The digest that the head carries: the memory's name.
Sha256 memory_digest(std::span<const IndexEntry> entries, std::uint64_t unit_bytes);

// The whole file. Entries strictly ascending by unit.
std::vector<std::byte> encode_memory_index(std::span<const IndexEntry> entries,
                                           std::uint64_t unit_bytes);

// What an index says before any of its entries is looked at.
struct IndexHead {
  std::uint64_t unit_bytes;
  std::uint64_t entry_count;
  Sha256 digest;
};
// Checks a head, given the first kIndexHeadBytes of a file of that size.
Result<IndexHead> decode_index_head(std::span<const std::byte> head, std::uint64_t file_bytes);

// A reader over the file's bytes, which must stay as they are while it lives. Safe to use from
// several threads at once.
class MemoryIndex {
 public:
  // Checks the head only.
  static Result<MemoryIndex> open(std::span<const std::byte> file);

  std::uint64_t unit_bytes() const { return unit_bytes_; }
  std::uint64_t entry_count() const { return entries_.entries(); }
  const Sha256& digest() const { return digest_; }

  // The entry of a unit, nullopt where the unit is zero. Checks the blocks it looks into, once
  // each.
  Result<std::optional<IndexEntry>> find(std::uint64_t unit) const;

  // The number of that entry, for at() and for a unit table; checks the same blocks.
  Result<std::optional<std::uint64_t>> position_of(std::uint64_t unit) const;

  // Entry number i, in ascending order of unit; i < entry_count().
  Result<IndexEntry> at(std::uint64_t i) const;

  // Every block, and the digest: what deep verification wants.
  Result<> check_all() const;

 private:
  MemoryIndex() = default;
  Result<> check_block(std::uint64_t block) const;
  Result<> check_entries(std::uint64_t first, std::uint64_t end) const;
  IndexEntry entry(std::uint64_t i) const { return entries_.entry<IndexEntry>(i); }

  SummedBlocks entries_;
  std::uint64_t unit_bytes_ = 0;
  Sha256 digest_ = {};
};

}  // namespace volt::formats
