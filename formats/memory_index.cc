#include "formats/memory_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr char kMagic[8] = "VOLTIDX";
constexpr std::uint16_t kMajor = 1;
constexpr std::uint16_t kMinor = 0;
constexpr std::size_t kSummedHeadBytes = 64;
constexpr std::size_t kEntryBytes = sizeof(IndexEntry);
constexpr std::size_t kSumBytes = sizeof(Xxh128);
constexpr std::size_t kBlockBytes = kEntriesPerBlock * kEntryBytes + kSumBytes;

bool is_unit_size(std::uint64_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kMinUnitBytes && bytes <= kMaxUnitBytes;
}

bool within_limits(const IndexEntry& entry, std::uint64_t unit_bytes) {
  return entry.unit < kEndOfAddresses / unit_bytes && entry.place <= kMaxMemoryBytes - unit_bytes;
}

// A block that was moved gets another seed, and so fails.
std::uint64_t block_seed(const Sha256& digest, std::uint64_t block) {
  return load<std::uint64_t>(digest.data()) + block;
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

// How many entries a file has room for, by its size; nullopt when no number of entries gives it.
std::optional<std::uint64_t> entries_in(std::uint64_t body_bytes) {
  const std::uint64_t full = body_bytes / kBlockBytes * kEntriesPerBlock;
  const std::uint64_t rest = body_bytes % kBlockBytes;
  if (rest == 0) return full;
  if (rest <= kSumBytes || (rest - kSumBytes) % kEntryBytes != 0) return std::nullopt;
  return full + (rest - kSumBytes) / kEntryBytes;
}

std::string number_of(const char* what, std::uint64_t i) {
  return join({what, " ", std::to_string(i)});
}

// Up to and including the entry count; all that open() promises.
Result<> check_head(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  if (bytes.size() < kIndexHeadBytes || file_bytes < kIndexHeadBytes) {
    return corrupt("head", join({std::to_string(std::min<std::uint64_t>(bytes.size(), file_bytes)),
                                 " bytes, not ", std::to_string(kIndexHeadBytes)}));
  }
  const std::byte* head = bytes.data();
  if (std::memcmp(head, kMagic, sizeof kMagic) != 0) return corrupt("magic", "not a Volt index");
  if (const auto major = load<std::uint16_t>(head + 8); major != kMajor) {
    return bad_field(Code::kUnsupported, "major",
                     join({std::to_string(major), ", this build reads ", std::to_string(kMajor)}));
  }
  const Xxh128 sum = xxh128(bytes.first(kSummedHeadBytes));
  if (!std::ranges::equal(sum, bytes.subspan(kSummedHeadBytes, kSumBytes))) {
    return corrupt("head_sum", "bytes changed since it was written");
  }
  if (const auto bits = load<std::uint32_t>(head + 24); bits != 0) {
    return bad_field(Code::kUnsupported, "must_be_zero",
                     join({std::to_string(bits), ", needs a newer build"}));
  }
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
  if (entries_in(file_bytes - kIndexHeadBytes) != entry_count) {
    return corrupt("entry_count", join({std::to_string(entry_count), " does not fit a file of ",
                                        std::to_string(file_bytes), " bytes"}));
  }
  return {};
}

}  // namespace

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
  const std::size_t blocks = (entries.size() + kEntriesPerBlock - 1) / kEntriesPerBlock;
  std::vector<std::byte> file(kIndexHeadBytes + entries.size_bytes() + blocks * kSumBytes);
  const Sha256 digest = memory_digest(entries, unit_bytes);
  std::memcpy(file.data(), kMagic, sizeof kMagic);
  store<std::uint16_t>(file.data() + 8, kMajor);
  store<std::uint16_t>(file.data() + 10, kMinor);
  store<std::uint32_t>(file.data() + 12, static_cast<std::uint32_t>(unit_bytes));
  store<std::uint64_t>(file.data() + 16, entries.size());
  std::ranges::copy(digest, file.begin() + 32);
  const Xxh128 head_sum = xxh128(std::span(file).first(kSummedHeadBytes));
  std::ranges::copy(head_sum, file.begin() + kSummedHeadBytes);
  auto to = file.begin() + kIndexHeadBytes;
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::size_t first = block * kEntriesPerBlock;
    const std::span<const std::byte> bytes =
        std::as_bytes(entries.subspan(first, std::min(kEntriesPerBlock, entries.size() - first)));
    to = std::ranges::copy(bytes, to).out;
    to = std::ranges::copy(xxh128(bytes, block_seed(digest, block)), to).out;
  }
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
  index.file_ = file;
  index.unit_bytes_ = head.unit_bytes;
  index.entry_count_ = head.entry_count;
  index.digest_ = head.digest;
  index.checked_ = std::make_unique<std::atomic<bool>[]>(index.blocks());
  return index;
}

std::uint64_t MemoryIndex::blocks() const {
  return (entry_count_ + kEntriesPerBlock - 1) / kEntriesPerBlock;
}

IndexEntry MemoryIndex::entry(std::uint64_t i) const {
  IndexEntry entry;
  const std::uint64_t block = i / kEntriesPerBlock;
  std::memcpy(&entry, file_.data() + kIndexHeadBytes + i * kEntryBytes + block * kSumBytes,
              sizeof entry);
  return entry;
}

Result<> MemoryIndex::verify_block(std::uint64_t block) const {
  const std::uint64_t first = block * kEntriesPerBlock;
  const std::uint64_t count = std::min<std::uint64_t>(kEntriesPerBlock, entry_count_ - first);
  const auto bytes =
      file_.subspan(kIndexHeadBytes + block * kBlockBytes, count * kEntryBytes + kSumBytes);
  const Xxh128 sum = xxh128(bytes.first(count * kEntryBytes), block_seed(digest_, block));
  if (!std::ranges::equal(sum, bytes.last(kSumBytes))) {
    return corrupt("sum", "bytes changed since it was written, or belong elsewhere");
  }
  for (std::uint64_t i = first; i < first + count; ++i) {
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
  // Relaxed: the flag only says that bytes which never change were seen to be good. Two threads
  // that meet here both check, and agree.
  if (checked_[block].load(std::memory_order_relaxed)) return {};
  Result<> good = verify_block(block);
  if (!good) {
    return std::unexpected(
        within("index", within(number_of("block", block), std::move(good).error())));
  }
  checked_[block].store(true, std::memory_order_relaxed);
  return {};
}

Result<std::optional<IndexEntry>> MemoryIndex::find(std::uint64_t unit) const {
  // First the number of blocks that begin at or before the unit; it is in the last of them.
  std::uint64_t low = 0;
  std::uint64_t high = blocks();
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
  const std::uint64_t end = std::min(low * kEntriesPerBlock, entry_count_);
  low = (low - 1) * kEntriesPerBlock;
  high = end;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (entry(middle).unit <= unit ? low : high) = middle;
  }
  const IndexEntry found = entry(low);
  if (found.unit != unit) return std::nullopt;
  return found;
}

Result<IndexEntry> MemoryIndex::at(std::uint64_t i) const {
  require(i < entry_count_, "index: at() beyond the last entry");
  VOLT_TRY(check_block(i / kEntriesPerBlock));
  return entry(i);
}

Result<> MemoryIndex::check_all() const {
  Sha256Stream stream = start_digest(unit_bytes_);
  for (std::uint64_t i = 0; i < entry_count_; ++i) {
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
