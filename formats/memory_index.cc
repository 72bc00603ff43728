#include "formats/memory_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr FixedHead kHead = {.magic = "VOLTIDX", .title = "index", .must_be_zero_at = 24};

bool within_limits(const IndexEntry& entry, std::uint64_t unit_bytes) {
  return entry.unit < kEndOfAddresses / unit_bytes && entry.place <= kMaxMemoryBytes - unit_bytes;
}

Sha256Stream start_digest(std::uint64_t unit_bytes) {
  std::array<std::byte, 8> start;
  store(start.data(), unit_bytes);
  Sha256Stream stream;
  stream.add(start);
  return stream;
}

void add_to_digest(Sha256Stream& stream, const IndexEntry& entry) {
  stream.add(std::as_bytes(std::span(&entry, 1)).first(offsetof(IndexEntry, place)));
}

// Up to and including the entry count; all that open() promises.
Result<> check_head(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  const auto present = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), file_bytes));
  VOLT_TRY(check_fixed_head(kHead, bytes.first(present)));
  const std::byte* head = bytes.data();
  const std::uint64_t unit_bytes = load<std::uint32_t>(head + 12);
  if (!is_unit_size(unit_bytes)) {
    return corrupt("unit_bytes",
                   join({std::to_string(unit_bytes), ", not a power of two from 4 KiB to 2 MiB"}));
  }
  if (load<std::uint32_t>(head + 28) != 0) return corrupt("reserved", "not zero");
  const auto entry_count = load<std::uint64_t>(head + 16);
  if (entry_count > kMaxMemoryBytes / unit_bytes) {
    return corrupt("entry_count", join({std::to_string(entry_count), ", at most ",
                                        std::to_string(kMaxMemoryBytes / unit_bytes)}));
  }
  if (summed_entries(file_bytes - kIndexHeadBytes) != entry_count) {
    return corrupt("entry_count", join({std::to_string(entry_count), " does not fit a file of ",
                                        std::to_string(file_bytes), " bytes"}));
  }
  return {};
}

}  // namespace

bool is_unit_size(std::uint64_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kMinUnitBytes && bytes <= kMaxUnitBytes;
}

Sha256 memory_digest(std::span<const IndexEntry> entries, std::uint64_t unit_bytes) {
  Sha256Stream stream = start_digest(unit_bytes);
  for (const IndexEntry& entry : entries) add_to_digest(stream, entry);
  return stream.finish();
}

std::vector<std::byte> encode_memory_index(std::span<const IndexEntry> entries,
                                           std::uint64_t unit_bytes) {
  require(is_unit_size(unit_bytes), "index: unit_bytes");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    require(within_limits(entries[i], unit_bytes), "index: an entry is beyond its limits");
    require(i == 0 || entries[i - 1].unit < entries[i].unit, "index: entries not ascending");
  }
  require(entries.size() <= kMaxMemoryBytes / unit_bytes, "index: too many entries");
  std::vector<std::byte> file(kIndexHeadBytes + summed_bytes(entries.size()));
  const Sha256 digest = memory_digest(entries, unit_bytes);
  store<std::uint32_t>(file.data() + 12, static_cast<std::uint32_t>(unit_bytes));
  store<std::uint64_t>(file.data() + 16, entries.size());
  std::ranges::copy(digest, file.begin() + 32);
  seal_head(kHead, file);
  write_blocks(std::as_bytes(entries), block_seed(digest),
               std::span(file).subspan(kIndexHeadBytes));
  return file;
}

Result<IndexHead> decode_index_head(std::span<const std::byte> head, std::uint64_t file_bytes) {
  VOLT_TRY_IN("index", check_head(head, file_bytes));
  IndexHead decoded = {.unit_bytes = load<std::uint32_t>(head.data() + 12),
                       .entry_count = load<std::uint64_t>(head.data() + 16),
                       .digest = {}};
  std::memcpy(decoded.digest.data(), head.data() + 32, decoded.digest.size());
  return decoded;
}

Result<MemoryIndex> MemoryIndex::open(std::span<const std::byte> file) {
  const IndexHead head = VOLT_TRY(decode_index_head(file, file.size()));
  MemoryIndex index;
  index.entries_ = SummedBlocks(file.subspan(kIndexHeadBytes), block_seed(head.digest));
  index.unit_bytes_ = head.unit_bytes;
  index.digest_ = head.digest;
  return index;
}

Result<> MemoryIndex::check_entries(std::uint64_t first, std::uint64_t end) const {
  for (std::uint64_t i = first; i < end; ++i) {
    if (!within_limits(entry(i), unit_bytes_)) {
      return corrupt(number_of("entry", i), "unit or place beyond the limits");
    }
    if (i > first && entry(i).unit <= entry(i - 1).unit) {
      return corrupt(number_of("entry", i), "unit not above the one before");
    }
  }
  return {};
}

Result<> MemoryIndex::check_block(std::uint64_t block) const {
  const auto rules = [&](std::uint64_t first, std::uint64_t end) -> Result<> {
    VOLT_TRY_IN(number_of("block", block), check_entries(first, end));
    return {};
  };
  VOLT_TRY_IN("index", entries_.check(block, rules));
  return {};
}

Result<std::optional<std::uint64_t>> MemoryIndex::position_of(std::uint64_t unit) const {
  // First the number of blocks that begin at or before the unit; it is in the last of them.
  std::uint64_t low = 0;
  std::uint64_t high = entries_.blocks();
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    VOLT_TRY(check_block(middle));
    if (entry(middle * kEntriesPerBlock).unit <= unit) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return std::nullopt;
  // That block was looked at above, so it is checked. Then the same among its entries.
  const std::uint64_t end = std::min(low * kEntriesPerBlock, entry_count());
  low = (low - 1) * kEntriesPerBlock;
  high = end;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (entry(middle).unit <= unit ? low : high) = middle;
  }
  if (entry(low).unit != unit) return std::nullopt;
  return low;
}

Result<std::optional<IndexEntry>> MemoryIndex::find(std::uint64_t unit) const {
  const std::optional<std::uint64_t> i = VOLT_TRY(position_of(unit));
  if (!i) return std::nullopt;
  return entry(*i);  // its block was checked on the way
}

Result<IndexEntry> MemoryIndex::at(std::uint64_t i) const {
  require(i < entry_count(), "index: at() beyond the last entry");
  VOLT_TRY(check_block(i / kEntriesPerBlock));
  return entry(i);
}

Result<> MemoryIndex::check_all() const {
  Sha256Stream stream = start_digest(unit_bytes_);
  for (std::uint64_t i = 0; i < entry_count(); ++i) {
    if (i % kEntriesPerBlock == 0) {
      VOLT_TRY(check_block(i / kEntriesPerBlock));
      if (i > 0 && entry(i).unit <= entry(i - 1).unit) {
        return fail(Code::kCorrupt, join({"index: ", number_of("block", i / kEntriesPerBlock),
                                          ": does not begin above the block before"}));
      }
    }
    add_to_digest(stream, entry(i));
  }
  if (stream.finish() != digest_) {
    return fail(Code::kCorrupt, "index: digest: names other entries than these");
  }
  return {};
}

}  // namespace volt::formats
