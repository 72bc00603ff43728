#include "formats/pack.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr FixedHead kHead = {.magic = "VOLTPAK", .title = "pack", .must_be_zero_at = 12};
constexpr char kTailMagic[8] = "VOLTPKT";

bool ascend(const PackRecord& first, const PackRecord& second) {
  return first.sum < second.sum || (first.sum == second.sum && first.offset < second.offset);
}

Result<> check_head(std::span<const std::byte> head) {
  VOLT_TRY(check_fixed_head(kHead, head));
  if (!all_zero(head.subspan(32, 32))) return corrupt("reserved", "not zero");
  return {};
}

Result<> check_tail(std::span<const std::byte> tail, std::uint64_t file_bytes) {
  if (tail.size() != kPackTailBytes || file_bytes < kPackHeadBytes + kPackTailBytes) {
    return corrupt("file", join({std::to_string(file_bytes), " bytes, too few"}));
  }
  if (std::memcmp(tail.data(), kTailMagic, sizeof kTailMagic) != 0) {
    return corrupt("magic", "not a pack's tail; its writer did not finish");
  }
  if (!head_sum_holds(tail)) return corrupt("tail_sum", "bytes changed since it was written");
  const auto record_count = load<std::uint64_t>(tail.data() + 8);
  const auto table_offset = load<std::uint64_t>(tail.data() + 16);
  if (record_count > kMaxPackRecords) {
    return corrupt("record_count", join({std::to_string(record_count), ", at most ",
                                         std::to_string(kMaxPackRecords)}));
  }
  if (table_offset < kPackHeadBytes || table_offset > kMaxMemoryBytes ||
      table_offset > file_bytes - kPackTailBytes) {
    return corrupt("table_offset", join({std::to_string(table_offset), " in a file of ",
                                         std::to_string(file_bytes), " bytes"}));
  }
  if (const std::uint64_t room = file_bytes - kPackTailBytes - table_offset;
      summed_entries(room) != record_count) {
    return corrupt("record_count", join({std::to_string(record_count), " does not fit a table of ",
                                         std::to_string(room), " bytes"}));
  }
  if (!all_zero(tail.subspan(24, 8)) || !all_zero(tail.subspan(48, 16))) {
    return corrupt("reserved", "not zero");
  }
  return {};
}

Result<> check_record(const PackRecord& record, std::uint64_t table_offset) {
  if (!is_unit_size(record.raw_bytes)) {
    return corrupt("raw_bytes", join({std::to_string(record.raw_bytes),
                                      ", not a power of two from 4 KiB to 2 MiB"}));
  }
  if (record.stored_bytes == 0 || record.stored_bytes > record.raw_bytes) {
    return corrupt("stored_bytes", join({std::to_string(record.stored_bytes), ", not from 1 to ",
                                         std::to_string(record.raw_bytes)}));
  }
  if (record.offset < kPackHeadBytes || record.offset > table_offset ||
      record.stored_bytes > table_offset - record.offset) {
    return corrupt("offset",
                   join({std::to_string(record.offset), ", the units lie from ",
                         std::to_string(kPackHeadBytes), " to ", std::to_string(table_offset)}));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_pack_head(const PackId& id) {
  std::vector<std::byte> head(kPackHeadBytes);
  std::ranges::copy(id, head.begin() + 16);
  seal_head(kHead, head);
  return head;
}

std::vector<std::byte> encode_pack_table(const PackId& id, std::span<const PackRecord> records,
                                         std::uint64_t table_offset) {
  require(records.size() <= kMaxPackRecords, "pack: too many records");
  require(table_offset >= kPackHeadBytes && table_offset <= kMaxMemoryBytes, "pack: table_offset");
  for (std::size_t i = 0; i < records.size(); ++i) {
    require(check_record(records[i], table_offset).has_value(), "pack: a record breaks its rules");
    require(i == 0 || ascend(records[i - 1], records[i]), "pack: records not ascending");
  }
  const std::size_t table_bytes = summed_bytes(records.size());
  std::vector<std::byte> bytes(table_bytes + kPackTailBytes);
  write_blocks(std::as_bytes(records), block_seed(id), std::span(bytes).first(table_bytes));
  const std::span<std::byte> tail = std::span(bytes).last(kPackTailBytes);
  std::memcpy(tail.data(), kTailMagic, sizeof kTailMagic);
  store<std::uint64_t>(tail.data() + 8, records.size());
  store<std::uint64_t>(tail.data() + 16, table_offset);
  std::ranges::copy(id, tail.begin() + 32);
  put_head_sum(tail);
  return bytes;
}

Result<PackId> decode_pack_head(std::span<const std::byte> head) {
  VOLT_TRY_IN("pack", check_head(head));
  PackId id;
  std::memcpy(id.data(), head.data() + 16, id.size());
  return id;
}

Result<PackTail> decode_pack_tail(std::span<const std::byte> tail, std::uint64_t file_bytes) {
  VOLT_TRY_IN("pack: tail", check_tail(tail, file_bytes));
  PackTail decoded = {.id = {},
                      .record_count = load<std::uint64_t>(tail.data() + 8),
                      .table_offset = load<std::uint64_t>(tail.data() + 16)};
  std::memcpy(decoded.id.data(), tail.data() + 32, decoded.id.size());
  return decoded;
}

Result<PackTable> PackTable::open(std::span<const std::byte> table, const PackTail& tail) {
  if (summed_entries(table.size()) != tail.record_count) {
    return fail(Code::kCorrupt,
                join({"pack: table: ", std::to_string(table.size()), " bytes, not what ",
                      std::to_string(tail.record_count), " records take"}));
  }
  PackTable opened;
  opened.records_ = SummedBlocks(table, block_seed(tail.id));
  opened.id_ = tail.id;
  opened.table_offset_ = tail.table_offset;
  return opened;
}

Result<> PackTable::check_block(std::uint64_t block) const {
  const auto rules = [&](std::uint64_t first, std::uint64_t end) -> Result<> {
    for (std::uint64_t i = first; i < end; ++i) {
      VOLT_TRY_IN(number_of("record", i), check_record(record(i), table_offset_));
      if (i > first && !ascend(record(i - 1), record(i))) {
        return corrupt(number_of("record", i), "sum: not above the record before");
      }
    }
    return {};
  };
  VOLT_TRY_IN("pack", records_.check(block, rules));
  return {};
}

Result<std::optional<PackRecord>> PackTable::find(const Xxh128& sum) const {
  // First the number of blocks that begin below the sum; its first record is in the last of them,
  // or else is the one that follows.
  std::uint64_t low = 0;
  std::uint64_t high = records_.blocks();
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    VOLT_TRY(check_block(middle));
    if (record(middle * kEntriesPerBlock).sum < sum) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  // What can be read below was looked at above, so it is checked.
  high = std::min(low * kEntriesPerBlock, record_count());
  low = low == 0 ? 0 : (low - 1) * kEntriesPerBlock;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (record(middle).sum < sum) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == record_count() || record(low).sum != sum) return std::nullopt;
  return record(low);
}

Result<PackRecord> PackTable::at(std::uint64_t i) const {
  require(i < record_count(), "pack: at() beyond the last record");
  VOLT_TRY(check_block(i / kEntriesPerBlock));
  return record(i);
}

Result<> PackTable::check_all() const {
  for (std::uint64_t block = 0; block < records_.blocks(); ++block) {
    VOLT_TRY(check_block(block));
    const std::uint64_t first = block * kEntriesPerBlock;
    if (block > 0 && !ascend(record(first - 1), record(first))) {
      return fail(Code::kCorrupt, join({"pack: ", number_of("block", block),
                                        ": does not begin above the block before"}));
    }
  }
  return {};
}

}  // namespace volt::formats
