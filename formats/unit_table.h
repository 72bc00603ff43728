// Unit table (file `units`): where the units of one snapshot's memory are stored when they are not
// in a `memory` file of its own at the places its index names. How memory is stored is no part of
// a snapshot's identity: packing, unpacking and folding write another table, and the manifest, the
// index and so the digest stay. All integers little-endian.
//   off size field
//     0    8 magic            "VOLTUNT" and a zero byte
//     8    2 major            a reader refuses any value but its own
//    10    2 minor            a reader accepts any value
//    12    4 unit_bytes       as in the index
//    16    8 entry_count      as in the index: entry i is about the unit of the index's entry i
//    24    4 must_be_zero     a set bit means: this file needs a newer reader
//    28    4 container_count  at most kMaxContainers
//    32   32 digest           the index's digest: the memory this table stores
//    64   16 head_sum         XXH3-128 over bytes 0..63
// then container_count containers of 40 bytes each, and the XXH3-128 over all of them (there also
// when there are none), seeded with the first 8 bytes of the digest:
//     0    4 kind             1: a layer, raw memory; 2: a pack (formats/pack.h)
//     4    4 reserved         zero
//     8   32 id               1: digest of the snapshot that wrote the layer; 2: the pack's id,
//     then
//                             zeros
// no two alike; then blocks of 128 entries (the last may be shorter), each followed by its own
// XXH3-128, seeded as in the memory index. entry, 32 bytes:
//     0   16 sum              XXH3-128 over the bytes as stored
//    16    8 offset           in the container; offset + stored bytes <= kMaxMemoryBytes
//    24    4 container        number of the container
//    28    4 stored_bytes     unit_bytes: as the guest sees them; fewer (not 0): one zstd frame,
//                             which only a pack holds
// Readers check in this order and stop at the first failure: the head as the index's, with
// container_count in place of reserved, and both counts against the file size; the containers' sum,
// then each of them; then per block, when it is first used, its sum and its entries. That the table
// is of the index beside it (digest, unit_bytes, entry_count), and that a container is there and
// long enough, is for who opens both: the files are not here.
// Downside: blocks of two tables of one memory carry each other's seed and can be traded unnoticed
// until a unit is read; its own sum, and then the index's, do not pass another unit for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "formats/digest.h"
#include "formats/fixed_head.h"
#include "formats/summed_blocks.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kUnitTableHeadBytes = kFixedHeadBytes;
inline constexpr std::size_t kMaxContainers = 4096;

struct Container {
  enum class Kind : std::uint32_t { kLayer = 1, kPack = 2 };
  Kind kind;
  Sha256 id;
  bool operator==(const Container&) const = default;
};

struct StoredUnit {
  Xxh128 sum;
  std::uint64_t offset;
  std::uint32_t container;
  std::uint32_t stored_bytes;
  bool operator==(const StoredUnit&) const = default;
};
static_assert(sizeof(StoredUnit) == 32 && alignof(StoredUnit) == 8);
static_assert(std::has_unique_object_representations_v<StoredUnit>);

// The whole file. Entry i belongs to the index's entry i.
std::vector<std::byte> encode_unit_table(std::span<const StoredUnit> units,
                                         std::span<const Container> containers,
                                         const Sha256& memory_digest, std::uint64_t unit_bytes);

// A reader over the file's bytes, which must stay as they are while it lives. Safe to use from
// several threads at once.
class UnitTable {
 public:
  // Checks the head and the containers.
  static Result<UnitTable> open(std::span<const std::byte> file);

  std::uint64_t unit_bytes() const { return unit_bytes_; }
  std::uint64_t entry_count() const { return units_.entries(); }
  const Sha256& digest() const { return digest_; }
  const std::vector<Container>& containers() const { return containers_; }

  // Entry number i; i < entry_count(). Checks its block, once.
  Result<StoredUnit> at(std::uint64_t i) const;
  // Every block.
  Result<> check_all() const;

 private:
  UnitTable() = default;
  Result<> check_block(std::uint64_t block) const;

  SummedBlocks units_;
  std::uint64_t unit_bytes_ = 0;
  Sha256 digest_ = {};
  std::vector<Container> containers_;
};

}  // namespace volt::formats
