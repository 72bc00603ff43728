// Pack: stored units of any number of snapshots, one after another, and a table to find them by
// content. Written once by appending, then never changed; a unit table (formats/unit_table.h) says
// which unit of which snapshot is where. All integers little-endian.
//   head, 80 bytes:
//     0    8 magic          "VOLTPAK" and a zero byte
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    12    4 must_be_zero   a set bit means: this file needs a newer reader
//    16   16 id             the pack's name, random
//    32   32 reserved       zero
//    64   16 head_sum       XXH3-128 over bytes 0..63
//   then the stored units, one after another, each raw or one zstd frame; bytes that no record
//   names do no harm, so nobody looks for them;
//   then the table: blocks of 128 records (the last may be shorter), each followed by its own
//   XXH3-128, seeded with the number of the block plus the first 8 bytes of the id. record, 32
//   bytes, ascending by (sum, offset):
//     0   16 sum            XXH3-128 over the unit's bytes as the guest sees them
//    16    8 offset         in the pack; the unit lies between the head and the table
//    24    4 stored_bytes   raw_bytes: as they are; fewer (not 0): one zstd frame
//    28    4 raw_bytes      a power of two, 4 KiB to 2 MiB
//   tail, the last 80 bytes:
//     0    8 magic          "VOLTPKT" and a zero byte
//     8    8 record_count   at most kMaxPackRecords
//    16    8 table_offset   where the table begins, at most kMaxMemoryBytes; the file's size says
//                           the same
//    24    8 reserved       zero
//    32   16 id             as in the head
//    48   16 reserved       zero
//    64   16 tail_sum       XXH3-128 over the tail's bytes 0..63
// Readers check in this order and stop at the first failure: of the head size, magic, major,
// head_sum, must_be_zero, reserved; of the tail the file size, magic, tail_sum, record_count,
// table_offset, both against the file size, reserved; that both have one id (who opens the file,
// for it reads the two apart); then per block, when it is first used, its sum and its records. Only
// check_all() compares neighbouring blocks. A reader that knows from a unit table where a unit is
// needs the head only.
// Why the table is at the end: a writer does not know it before, and a pack without a tail is one
// whose writer was killed. Two units with one sum and unlike bytes can both be here; find() gives
// the first, and whoever wants to share it compares the bytes.
#pragma once

#include <array>
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

inline constexpr std::size_t kPackHeadBytes = kFixedHeadBytes;
inline constexpr std::size_t kPackTailBytes = 80;
inline constexpr std::uint64_t kMaxPackRecords = std::uint64_t{1} << 30;

using PackId = std::array<std::byte, 16>;

struct PackRecord {
  Xxh128 sum;
  std::uint64_t offset;
  std::uint32_t stored_bytes;
  std::uint32_t raw_bytes;
  bool operator==(const PackRecord&) const = default;
};
static_assert(sizeof(PackRecord) == 32 && alignof(PackRecord) == 8);
static_assert(std::has_unique_object_representations_v<PackRecord>);

std::vector<std::byte> encode_pack_head(const PackId& id);
// Table and tail, which go where the last stored unit ends. Records ascending by (sum, offset).
std::vector<std::byte> encode_pack_table(const PackId& id, std::span<const PackRecord> records,
                                         std::uint64_t table_offset);

Result<PackId> decode_pack_head(std::span<const std::byte> head);

struct PackTail {
  PackId id;
  std::uint64_t record_count;
  std::uint64_t table_offset;
};
// Given the last kPackTailBytes of a file of that size.
Result<PackTail> decode_pack_tail(std::span<const std::byte> tail, std::uint64_t file_bytes);

// A reader over a pack's table, which must stay as it is while it lives. Safe to use from several
// threads at once.
class PackTable {
 public:
  // `table` is the file from tail.table_offset up to the tail.
  static Result<PackTable> open(std::span<const std::byte> table, const PackTail& tail);

  const PackId& id() const { return id_; }
  std::uint64_t record_count() const { return records_.entries(); }
  // The first record with that sum. Checks the blocks it looks into, once each.
  Result<std::optional<PackRecord>> find(const Xxh128& sum) const;
  Result<PackRecord> at(std::uint64_t i) const;
  // Every block, and that the records ascend.
  Result<> check_all() const;

 private:
  PackTable() = default;
  Result<> check_block(std::uint64_t block) const;
  PackRecord record(std::uint64_t i) const { return records_.entry<PackRecord>(i); }

  SummedBlocks records_;
  PackId id_ = {};
  std::uint64_t table_offset_ = 0;
};

}  // namespace volt::formats
