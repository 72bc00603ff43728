#include "formats/unit_table.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

constexpr std::size_t kListAt = kUnitTableHeadBytes;
constexpr std::size_t kContainerBytes = 40;
constexpr std::size_t kBlocksAt = kListAt + 3 * kContainerBytes + sizeof(Xxh128);  // of the samples

Result<> read(std::span<const std::byte> file) {
  const UnitTable table = VOLT_TRY(UnitTable::open(file));
  return table.check_all();
}

std::string error_of(const Bytes& file) {
  const Result<> good = read(file);
  return good ? "none" : good.error().context;
}

// Containers changed on purpose, with a sum that says so.
template <typename T>
Bytes with_container(std::size_t i, std::size_t offset, T value) {
  Bytes file = sample_unit_table(3);
  std::memcpy(file.data() + kListAt + i * kContainerBytes + offset, &value, sizeof value);
  const auto list = std::span(file).subspan(kListAt, 3 * kContainerBytes);
  const Xxh128 sum = xxh128(list, block_seed(stored_digest(3)));
  std::ranges::copy(sum, file.begin() + kBlocksAt - sizeof sum);
  return file;
}

// An entry changed on purpose in a table of one short block, with a sum that says so.
Bytes with_entry(std::size_t n, std::size_t i, const StoredUnit& unit) {
  std::vector<StoredUnit> units = sample_units(n);
  units[i] = unit;
  Bytes file = sample_unit_table(n);
  write_blocks(std::as_bytes(std::span(units)), block_seed(stored_digest(n)),
               std::span(file).subspan(kBlocksAt));
  return file;
}

TEST(UnitTableTest, GivesWhatWasWritten) {
  for (const std::size_t n : {0UZ, 1UZ, 127UZ, 128UZ, 129UZ, 1000UZ}) {
    const std::vector<StoredUnit> units = sample_units(n);
    const Bytes file = sample_unit_table(n);
    const Result<UnitTable> table = UnitTable::open(file);
    ASSERT_TRUE(table) << table.error().context;
    ASSERT_EQ(table->entry_count(), n);
    EXPECT_EQ(table->unit_bytes(), kStoredUnitBytes);
    EXPECT_EQ(table->digest(), stored_digest(n));
    EXPECT_EQ(table->containers(), sample_containers());
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(table->at(i).value(), units[i]);
    EXPECT_TRUE(table->check_all());
  }
}

TEST(UnitTableTest, ContainersObeyTheirRules) {
  EXPECT_EQ(error_of(with_container<std::uint32_t>(1, 0, 4)),
            "units: container 1: kind: 4, not 1 or 2");
  EXPECT_EQ(error_of(with_container<std::uint32_t>(1, 0, 0)),
            "units: container 1: kind: 0, not 1 or 2");
  EXPECT_EQ(error_of(with_container<std::uint32_t>(1, 4, 1)),
            "units: container 1: reserved: not zero");
  EXPECT_EQ(error_of(with_container<std::uint8_t>(2, 24, 1)),
            "units: container 2: id: not zero behind a pack's id");
}

TEST(UnitTableTest, NoTwoContainersAreAlike) {
  EXPECT_EQ(error_of(with_container(1, 8, sample_containers()[0].id)),
            "units: container 1: id: that of a container before it");
}

TEST(UnitTableTest, EntriesObeyTheirLimits) {
  const StoredUnit good = sample_units(9)[7];
  StoredUnit unit = good;
  unit.container = 3;
  EXPECT_EQ(error_of(with_entry(9, 7, unit)), "units: entry 7: container: 3, there are 3");
  unit.container = ~std::uint32_t{0};
  EXPECT_EQ(error_of(with_entry(9, 7, unit)), "units: entry 7: container: 4294967295, there are 3");
  unit = good;
  for (const std::uint32_t bytes : {0U, 4097U, ~0U}) {
    unit.stored_bytes = bytes;
    EXPECT_EQ(error_of(with_entry(9, 7, unit)),
              "units: entry 7: stored_bytes: " + std::to_string(bytes) + ", not from 1 to 4096");
  }
  unit = good;
  for (const std::uint64_t offset : {kMaxMemoryBytes - kStoredUnitBytes + 1, ~std::uint64_t{0},
                                     ~std::uint64_t{0} - kStoredUnitBytes + 1}) {
    unit.offset = offset;
    EXPECT_EQ(error_of(with_entry(9, 7, unit)),
              "units: entry 7: offset: " + std::to_string(offset) + ", beyond the limits");
  }
  unit.offset = kMaxMemoryBytes - kStoredUnitBytes;
  EXPECT_EQ(error_of(with_entry(9, 7, unit)), "none");
  unit.stored_bytes = 1;
  EXPECT_EQ(error_of(with_entry(9, 7, unit)),
            "units: entry 7: stored_bytes: a layer holds no zstd frames");
  unit.container = 2;
  EXPECT_EQ(error_of(with_entry(9, 7, unit)), "none");
}

TEST(UnitTableTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(sample_unit_table(130), read);
}

TEST(UnitTableTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(sample_unit_table(130), "units", read);
}

TEST(UnitTableTest, HeadRules) {
  const Bytes good = sample_unit_table(3);
  const auto changed = [&](std::size_t at, auto value) {
    return error_of(with_head(good, at, value));
  };
  EXPECT_EQ(changed(0, std::uint8_t{'W'}), "units: magic: not a Volt unit table");
  EXPECT_EQ(changed(8, std::uint16_t{2}), "units: major: 2, this build reads 1");
  EXPECT_EQ(changed(10, std::uint16_t{77}), "none");
  EXPECT_EQ(changed(24, std::uint32_t{8}), "units: must_be_zero: 8, needs a newer build");
  for (const std::uint32_t unit : {0U, 2048U, 4097U, 4U << 20}) {
    EXPECT_EQ(changed(12, unit), "units: unit_bytes: " + std::to_string(unit) +
                                     ", not a power of two from 4 KiB to 2 MiB");
  }
  EXPECT_EQ(changed(16, std::uint64_t{4}),
            "units: entry_count: 4 does not fit a file of 328 bytes");
  EXPECT_EQ(changed(28, std::uint32_t{kMaxContainers + 1}),
            "units: container_count: 4097, at most 4096");
  EXPECT_EQ(changed(28, std::uint32_t{kMaxContainers}),
            "units: container_count: 4096 does not fit a file of 328 bytes");
  EXPECT_EQ(changed(32, std::uint8_t{1}),
            "units: containers: sum: bytes changed since it was written, or belong elsewhere");
}

// Counts whose product with 32 wraps around to the true size.
TEST(UnitTableTest, HugeCountsAreRefusedWithoutAllocating) {
  for (const std::uint64_t count :
       {(std::uint64_t{1} << 59) + 3, ~std::uint64_t{0}, ~std::uint64_t{0} - 127,
        std::uint64_t{1} << 34, std::uint64_t{1} << 58}) {
    const std::string error = error_of(with_head(sample_unit_table(3), 16, count));
    EXPECT_TRUE(error.starts_with("units: entry_count: " + std::to_string(count))) << error;
  }
}

TEST(UnitTableTest, BytesBehindTheLastBlockAreRefused) {
  for (const std::size_t extra : {1UZ, 15UZ, 16UZ, 17UZ, 32UZ, 47UZ, 48UZ}) {
    for (const std::size_t n : {0UZ, 1UZ, 128UZ}) {
      Bytes file = sample_unit_table(n);
      file.resize(file.size() + extra);
      EXPECT_TRUE(error_of(file).starts_with("units: entry_count: ")) << n << " and " << extra;
    }
  }
}

TEST(UnitTableTest, SwappedBlocksAreSeenAndTheOthersStayReadable) {
  Bytes file = sample_unit_table(512);
  const auto block = [&](std::size_t i) { return file.data() + kBlocksAt + i * kBlockBytes; };
  std::swap_ranges(block(1), block(2), block(2));
  const UnitTable table = UnitTable::open(file).value();
  EXPECT_TRUE(table.at(0));
  EXPECT_TRUE(table.at(511));
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(table.at(200).error().context,
              "units: block 1: sum: bytes changed since it was written, or belong elsewhere");
  }
}

TEST(UnitTableTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_units.bin");
  const Result<UnitTable> table = UnitTable::open(file);
  ASSERT_TRUE(table) << table.error().context;
  ASSERT_TRUE(table->check_all()) << table->check_all().error().context;
  EXPECT_EQ(table->unit_bytes(), kStoredUnitBytes);
  ASSERT_EQ(table->entry_count(), 130);
  ASSERT_EQ(table->containers().size(), 3);
  EXPECT_EQ(table->containers()[2].kind, Container::Kind::kPack);
  const StoredUnit last = table->at(129).value();
  EXPECT_EQ(last.container, 1);
  EXPECT_EQ(last.offset, 129 * kStoredUnitBytes);
  EXPECT_EQ(last.sum, xxh128(unit_content(129)));
  EXPECT_EQ(sample_unit_table(130), file);
}

// What the table says of the pack's units is true of the golden pack.
TEST(UnitTableTest, GoldenTableAndGoldenPackAreOfOneMemory) {
  const Bytes pack = golden("v1_pack.bin");
  const Bytes file = golden("v1_units.bin");
  const UnitTable table = UnitTable::open(file).value();
  for (std::size_t i = 0; i < kPackedUnits; ++i) {
    const StoredUnit unit = table.at(i).value();
    ASSERT_EQ(unit.container, 2);
    const auto stored = std::span(pack).subspan(unit.offset, unit.stored_bytes);
    EXPECT_TRUE(std::ranges::equal(stored, stored_form(i)));
    EXPECT_EQ(xxh128(stored), unit.sum);
  }
}

TEST(UnitTableTest, AsManyContainersAsThereMayBe) {
  std::vector<Container> containers(kMaxContainers, {.kind = Container::Kind::kPack, .id = {}});
  for (std::size_t i = 0; i < containers.size(); ++i) store(containers[i].id.data(), i);
  const Bytes file = encode_unit_table({}, containers, {}, kStoredUnitBytes);
  EXPECT_EQ(UnitTable::open(file).value().containers(), containers);
}

TEST(UnitTableDeathTest, WritingWhatReadersRefuseIsTheCallersBug) {
  const std::vector<StoredUnit> units = sample_units(2);
  const std::vector<Container> one = {{.kind = Container::Kind::kLayer, .id = {}}};
  const std::vector<Container> twice(2, one[0]);
  EXPECT_DEATH(encode_unit_table(units, one, {}, 4096), "an entry breaks its rules");
  EXPECT_DEATH(encode_unit_table({}, twice, {}, 4096), "a container twice");
  EXPECT_DEATH(encode_unit_table({}, one, {}, 5000), "unit_bytes");
}

}  // namespace
}  // namespace volt::formats
