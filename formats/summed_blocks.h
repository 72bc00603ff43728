// Summed blocks: a flat array of 32-byte entries that is searched where it lies, in blocks of 128
// (the last may be shorter), each followed by its own XXH3-128. A block's sum is seeded with its
// number plus the first 8 bytes of the name of what the array belongs to, so a block from elsewhere
// in this array or from another one does not pass. What memory index, unit table and pack share.
// Why blocks: a sum over all would be read whole before the first entry can be believed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "formats/digest.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kEntriesPerBlock = 128;
inline constexpr std::size_t kBlockEntryBytes = 32;
inline constexpr std::size_t kBlockBytes =
    kEntriesPerBlock * kBlockEntryBytes + sizeof(Xxh128);  // but for the last, which may be shorter

// How long an array of `entries` is; at most 2^58, so that it can be told.
std::uint64_t summed_bytes(std::uint64_t entries);
// How many entries there are in so many bytes; nullopt when no number of entries takes them.
std::optional<std::uint64_t> summed_entries(std::uint64_t bytes);

// The seed of block 0. `name` is a digest or an id, at least 8 bytes.
std::uint64_t block_seed(std::span<const std::byte> name);

// `entries` are whole entries; `to` has room for exactly their array.
void write_blocks(std::span<const std::byte> entries, std::uint64_t seed, std::span<std::byte> to);

// "entry 7", for errors.
std::string number_of(const char* what, std::uint64_t i);

// A reader over an array's bytes, which must stay as they are while it lives. Safe to use from
// several threads at once.
class SummedBlocks {
 public:
  SummedBlocks() = default;
  // `bytes` must be what some number of entries takes: see summed_entries().
  SummedBlocks(std::span<const std::byte> bytes, std::uint64_t seed);

  std::uint64_t entries() const { return entries_; }
  std::uint64_t blocks() const { return (entries_ + kEntriesPerBlock - 1) / kEntriesPerBlock; }

  // Entry i as it lies there; only to be believed once its block was checked.
  template <typename Entry>
  Entry entry(std::uint64_t i) const {
    static_assert(sizeof(Entry) == kBlockEntryBytes && std::is_trivially_copyable_v<Entry>);
    Entry entry;
    const std::uint64_t at = i * kBlockEntryBytes + i / kEntriesPerBlock * sizeof(Xxh128);
    std::memcpy(&entry, bytes_.data() + at, sizeof entry);
    return entry;
  }

  // Once for each block: its sum, then `rules(first, end)` for the entries that it holds.
  template <typename Rules>
  Result<> check(std::uint64_t block, Rules rules) const {
    // Relaxed: the flag only says that bytes which never change were seen to be good. Two threads
    // that meet here both check, and agree.
    if (checked_[block].load(std::memory_order_relaxed)) return {};
    VOLT_TRY(check_sum(block));
    const std::uint64_t first = block * kEntriesPerBlock;
    VOLT_TRY(rules(first, std::min<std::uint64_t>(first + kEntriesPerBlock, entries_)));
    checked_[block].store(true, std::memory_order_relaxed);
    return {};
  }

 private:
  Result<> check_sum(std::uint64_t block) const;

  std::span<const std::byte> bytes_;
  std::uint64_t seed_ = 0;
  std::uint64_t entries_ = 0;
  std::unique_ptr<std::atomic<bool>[]> checked_;  // one per block
};

}  // namespace volt::formats
