#include "formats/pack.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

// The table and tail of a whole file, as an opener finds them.
Result<PackTable> open(std::span<const std::byte> file) {
  const std::span<const std::byte> last = file.last(std::min(file.size(), kPackTailBytes));
  const PackTail tail = VOLT_TRY(decode_pack_tail(last, file.size()));
  const PackId id = VOLT_TRY(decode_pack_head(file.first(kPackHeadBytes)));
  if (id != tail.id) return fail(Code::kCorrupt, "pack: tail: id: not the head's");
  return PackTable::open(file.subspan(tail.table_offset, summed_bytes(tail.record_count)), tail);
}

// Everything, and the stored units: whole ones by their sum, frames by what the samples hold.
Result<> read(std::span<const std::byte> file) {
  const PackTable table = VOLT_TRY(open(file));
  VOLT_TRY(table.check_all());
  for (std::uint64_t i = 0; i < table.record_count(); ++i) {
    const PackRecord record = VOLT_TRY(table.at(i));
    const auto stored = file.subspan(record.offset, record.stored_bytes);
    const bool frame = record.stored_bytes < record.raw_bytes;
    if (frame && !std::ranges::equal(stored, frame_of(stored.back()))) {
      return fail(Code::kCorrupt, "pack: unit: not a frame");
    }
    const Bytes raw =
        frame ? Bytes(record.raw_bytes, stored.back()) : Bytes(stored.begin(), stored.end());
    if (xxh128(raw) != record.sum) return fail(Code::kCorrupt, "pack: unit: other bytes");
  }
  return {};
}

std::string error_of(const Bytes& file) {
  const Result<> good = read(file);
  return good ? "none" : good.error().context;
}

// The tail of a pack of one unit, changed on purpose, with a sum that says so.
template <typename T>
std::string tail_error(std::size_t offset, T value) {
  Bytes file = sample_pack(1);
  const std::span<std::byte> tail = std::span(file).last(kPackTailBytes);
  store(tail.data() + offset, value);
  put_head_sum(tail);
  return error_of(file);
}

// ---- Tables without a pack.

constexpr std::uint64_t kUnitsEnd = kPackHeadBytes + 4096 * kStoredUnitBytes;

// Sums whose order is that of `n`.
Xxh128 rising_sum(std::size_t n) {
  Xxh128 sum = {};
  sum[0] = std::byte{0x7F};
  for (std::size_t i = 0; i < 8; ++i) sum[15 - i] = static_cast<std::byte>(n >> (8 * i));
  return sum;
}

std::vector<PackRecord> rising_records(std::size_t n) {
  std::vector<PackRecord> records(n);
  for (std::size_t i = 0; i < n; ++i) {
    records[i] = {.sum = rising_sum(2 * i + 2),
                  .offset = kPackHeadBytes + i * kStoredUnitBytes,
                  .stored_bytes = kStoredUnitBytes,
                  .raw_bytes = kStoredUnitBytes};
  }
  return records;
}

Bytes table_of(std::span<const PackRecord> records) {
  Bytes bytes = encode_pack_table(sample_pack_id(), records, kUnitsEnd);
  bytes.resize(summed_bytes(records.size()));
  return bytes;
}

Result<PackTable> open_table(std::span<const std::byte> table, std::uint64_t count) {
  return PackTable::open(
      table, {.id = sample_pack_id(), .record_count = count, .table_offset = kUnitsEnd});
}

// The table up to a record that was changed on purpose, with a sum that says so.
std::string error_with(std::size_t i, const PackRecord& record) {
  std::vector<PackRecord> records = rising_records(i + 1);
  records[i] = record;
  Bytes bytes(summed_bytes(records.size()));
  write_blocks(std::as_bytes(std::span(records)), block_seed(sample_pack_id()), bytes);
  const Result<> good = open_table(bytes, records.size()).value().check_all();
  return good ? "none" : good.error().context;
}

TEST(PackTest, GivesWhatWasWritten) {
  for (const std::size_t n : {0UZ, 1UZ, 127UZ, 128UZ, 129UZ, 1000UZ}) {
    const std::vector<PackRecord> records = sample_records(n);
    const Bytes file = sample_pack(n);
    const Result<PackTable> table = open(file);
    ASSERT_TRUE(table) << table.error().context;
    ASSERT_EQ(table->record_count(), n);
    EXPECT_EQ(table->id(), sample_pack_id());
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(table->at(i).value(), records[i]);
    EXPECT_TRUE(table->check_all());
  }
}

TEST(PackTest, FindsWhatIsThereAndNothingElse) {
  for (const std::size_t n : {0UZ, 1UZ, 2UZ, 127UZ, 128UZ, 129UZ, 256UZ, 257UZ}) {
    const std::vector<PackRecord> records = rising_records(n);
    const Bytes bytes = table_of(records);
    const PackTable table = open_table(bytes, n).value();
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_EQ(table.find(rising_sum(2 * i + 2)).value(), records[i]);
      EXPECT_EQ(table.find(rising_sum(2 * i + 1)).value(), std::nullopt);
      EXPECT_EQ(table.find(rising_sum(2 * i + 3)).value(), std::nullopt);
    }
    EXPECT_EQ(table.find(Xxh128{}).value(), std::nullopt);
    Xxh128 last;
    last.fill(std::byte{0xFF});
    EXPECT_EQ(table.find(last).value(), std::nullopt);
  }
}

// Runs of one sum that begin at, before and behind a block's border, and fill whole blocks.
TEST(PackTest, FindsTheFirstOfManyWithOneSum) {
  for (const std::size_t begin : {0UZ, 1UZ, 100UZ, 127UZ, 128UZ, 129UZ}) {
    for (const std::size_t count : {1UZ, 2UZ, 28UZ, 128UZ, 300UZ}) {
      std::vector<PackRecord> records = rising_records(450);
      for (std::size_t i = begin; i < begin + count; ++i) records[i].sum = records[begin].sum;
      const Bytes bytes = table_of(records);
      const PackTable table = open_table(bytes, records.size()).value();
      ASSERT_TRUE(table.check_all());
      EXPECT_EQ(table.find(records[begin].sum).value(), records[begin]) << begin << " " << count;
    }
  }
}

TEST(PackTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(sample_pack(3), read);
}

TEST(PackTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(sample_pack(3), "pack", read);
}

TEST(PackTest, HeadRules) {
  const Bytes good = sample_pack(1);
  const auto changed = [&](std::size_t at, auto value) {
    return error_of(with_head(good, at, value));
  };
  EXPECT_EQ(changed(0, std::uint8_t{'W'}), "pack: magic: not a Volt pack");
  EXPECT_EQ(changed(8, std::uint16_t{2}), "pack: major: 2, this build reads 1");
  EXPECT_EQ(changed(10, std::uint16_t{77}), "none");
  EXPECT_EQ(changed(12, std::uint32_t{4}), "pack: must_be_zero: 4, needs a newer build");
  EXPECT_EQ(changed(32, std::uint8_t{1}), "pack: reserved: not zero");
  EXPECT_EQ(changed(63, std::uint8_t{1}), "pack: reserved: not zero");
  EXPECT_EQ(changed(16, std::uint8_t{1}), "pack: tail: id: not the head's");
}

TEST(PackTest, TailRules) {
  const std::uint64_t file_bytes = sample_pack(1).size();
  const std::uint64_t table_at = kPackHeadBytes + kStoredUnitBytes;
  EXPECT_EQ(tail_error(0, std::uint8_t{'W'}),
            "pack: tail: magic: not a pack's tail; its writer did not finish");
  EXPECT_EQ(tail_error(8, std::uint64_t{2}),
            "pack: tail: record_count: 2 does not fit a table of 48 bytes");
  EXPECT_EQ(tail_error(8, kMaxPackRecords + 1),
            "pack: tail: record_count: 1073741825, at most 1073741824");
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{kPackHeadBytes - 1}, file_bytes - kPackTailBytes + 1,
        ~std::uint64_t{0}, kMaxMemoryBytes + 1}) {
    EXPECT_EQ(tail_error(16, offset), "pack: tail: table_offset: " + std::to_string(offset) +
                                          " in a file of " + std::to_string(file_bytes) + " bytes");
  }
  for (const std::uint64_t offset : {table_at - 1, table_at + 1, table_at + 32}) {
    EXPECT_TRUE(tail_error(16, offset).starts_with("pack: tail: record_count: 1 does not fit"));
  }
  EXPECT_EQ(tail_error(24, std::uint8_t{1}), "pack: tail: reserved: not zero");
  EXPECT_EQ(tail_error(63, std::uint8_t{1}), "pack: tail: reserved: not zero");
}

// Counts whose product with 32 wraps around to the true size, in a table nobody has checked.
TEST(PackTest, TableOfAnotherSizeThanItsTailSaysIsRefused) {
  const Bytes table(48);
  for (const std::uint64_t count :
       {std::uint64_t{0}, std::uint64_t{2}, (std::uint64_t{1} << 59) + 1, ~std::uint64_t{0}}) {
    EXPECT_EQ(open_table(table, count).error().context,
              "pack: table: 48 bytes, not what " + std::to_string(count) + " records take");
  }
}

TEST(PackTest, RecordsObeyTheirLimits) {
  const PackRecord good = rising_records(9)[7];
  PackRecord record = good;
  for (const std::uint32_t raw : {0U, 2048U, 4097U, 4U << 20}) {
    record.raw_bytes = raw;
    EXPECT_EQ(error_with(7, record), "pack: record 7: raw_bytes: " + std::to_string(raw) +
                                         ", not a power of two from 4 KiB to 2 MiB");
  }
  record = good;
  for (const std::uint32_t stored : {0U, 4097U, ~0U}) {
    record.stored_bytes = stored;
    EXPECT_EQ(error_with(7, record),
              "pack: record 7: stored_bytes: " + std::to_string(stored) + ", not from 1 to 4096");
  }
  record = good;
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{kPackHeadBytes - 1}, kUnitsEnd - kStoredUnitBytes + 1,
        kUnitsEnd + 1, ~std::uint64_t{0}}) {
    record.offset = offset;
    EXPECT_EQ(error_with(7, record), "pack: record 7: offset: " + std::to_string(offset) +
                                         ", the units lie from 80 to " + std::to_string(kUnitsEnd));
  }
  for (const std::uint64_t offset : {std::uint64_t{kPackHeadBytes}, kUnitsEnd - kStoredUnitBytes}) {
    record.offset = offset;
    EXPECT_EQ(error_with(7, record), "none");
  }
}

TEST(PackTest, RecordsOutOfOrderAreRefused) {
  const std::string error = "pack: record 7: sum: not above the record before";
  PackRecord record = rising_records(9)[5];
  EXPECT_EQ(error_with(7, record), error);
  record = rising_records(9)[6];
  EXPECT_EQ(error_with(7, record), error);  // the very same
  record.offset += 1;
  EXPECT_EQ(error_with(7, record), "none");
}

// A liar's table: each block in order, their sums right, the second below the first.
TEST(PackTest, BlocksOutOfOrderAreSeenByCheckAll) {
  std::vector<PackRecord> records = rising_records(129);
  records[128].sum = {};
  Bytes bytes(summed_bytes(129));
  write_blocks(std::as_bytes(std::span(records)), block_seed(sample_pack_id()), bytes);
  const PackTable table = open_table(bytes, 129).value();
  EXPECT_TRUE(table.at(128));
  EXPECT_EQ(table.check_all().error().context,
            "pack: block 1: does not begin above the block before");
}

TEST(PackTest, DamageIsFoundWhereItIsAndNotBefore) {
  const std::vector<PackRecord> records = rising_records(1024);
  Bytes bytes = table_of(records);
  bytes[5 * kBlockBytes + 7] ^= std::byte{1};
  const PackTable table = open_table(bytes, records.size()).value();
  EXPECT_TRUE(table.at(1023));
  EXPECT_EQ(table.find(records[100].sum).value(), records[100]);
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(table.find(records[640].sum).error().context,
              "pack: block 5: sum: bytes changed since it was written, or belong elsewhere");
  }
}

TEST(PackTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_pack.bin");
  const Result<PackTable> table = open(file);
  ASSERT_TRUE(table) << table.error().context;
  ASSERT_TRUE(read(file)) << read(file).error().context;
  EXPECT_EQ(table->id(), sample_pack_id());
  ASSERT_EQ(table->record_count(), 3);
  for (std::size_t i = 0; i < 3; ++i) {
    const PackRecord record = table->find(xxh128(unit_content(i))).value().value();
    const auto stored = std::span(file).subspan(record.offset, record.stored_bytes);
    EXPECT_TRUE(std::ranges::equal(stored, stored_form(i)));
  }
  EXPECT_EQ(sample_pack(3), file);
}

TEST(PackDeathTest, WritingWhatReadersRefuseIsTheCallersBug) {
  std::vector<PackRecord> records = rising_records(2);
  EXPECT_DEATH(encode_pack_table({}, records, kPackHeadBytes), "a record breaks its rules");
  EXPECT_DEATH(encode_pack_table({}, {}, kPackHeadBytes - 1), "table_offset");
  std::swap(records[0], records[1]);
  EXPECT_DEATH(encode_pack_table({}, records, kUnitsEnd), "records not ascending");
}

}  // namespace
}  // namespace volt::formats
