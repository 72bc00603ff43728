#include "formats/memory_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "formats/little_endian.h"
#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

Result<> read(std::span<const std::byte> file) {
  const MemoryIndex index = VOLT_TRY(MemoryIndex::open(file));
  return index.check_all();
}

std::byte* block(Bytes& file, std::size_t i) {
  return file.data() + kIndexHeadBytes + i * kBlockBytes;
}

// An entry changed on purpose in an index of one short block, with sums that say so.
Bytes with_entry(std::size_t n, std::size_t i, IndexEntry entry) {
  Bytes file = sample_index(n);
  std::memcpy(block(file, 0) + i * sizeof entry, &entry, sizeof entry);
  const auto entries = std::span(file).subspan(kIndexHeadBytes, n * sizeof entry);
  const Xxh128 sum = xxh128(entries, load<std::uint64_t>(file.data() + 32));
  std::ranges::copy(sum, file.end() - sizeof sum);
  return file;
}

std::string error_of(const Bytes& file) {
  const Result<> good = read(file);
  return good ? "none" : good.error().context;
}

void expect_found(const MemoryIndex& index, const IndexEntry& entry) {
  const auto found = index.find(entry.unit);
  ASSERT_TRUE(found) << found.error().context;
  ASSERT_TRUE(found->has_value()) << "unit " << entry.unit;
  EXPECT_EQ(**found, entry);
  const auto position = index.position_of(entry.unit);
  ASSERT_TRUE(position && position->has_value()) << "unit " << entry.unit;
  EXPECT_EQ(index.at(**position).value(), entry);
}

void expect_absent(const MemoryIndex& index, std::uint64_t unit) {
  const auto found = index.find(unit);
  ASSERT_TRUE(found) << found.error().context;
  EXPECT_FALSE(found->has_value()) << "unit " << unit;
  EXPECT_EQ(index.position_of(unit).value(), std::nullopt);
}

TEST(MemoryIndexTest, EmptyIndexHasNothing) {
  const Bytes file = sample_index(0);
  ASSERT_EQ(file.size(), kIndexHeadBytes);
  const MemoryIndex index = MemoryIndex::open(file).value();
  EXPECT_EQ(index.entry_count(), 0);
  expect_absent(index, 0);
  expect_absent(index, ~std::uint64_t{0});
  EXPECT_TRUE(index.check_all());
}

// Sizes around one block and around the turns of a binary search.
TEST(MemoryIndexTest, FindsWhatIsThereAndNothingElse) {
  for (const std::size_t n : {1UZ, 2UZ, 127UZ, 128UZ, 129UZ, 255UZ, 256UZ, 257UZ, 1000UZ}) {
    const std::vector<IndexEntry> entries = sample_entries(n);
    const Bytes file = encode_memory_index(entries, kDefaultUnitBytes);
    const MemoryIndex index = MemoryIndex::open(file).value();
    EXPECT_EQ(index.entry_count(), n);
    EXPECT_EQ(index.digest(), memory_digest(entries, kDefaultUnitBytes));
    for (std::size_t i = 0; i < n; ++i) {
      expect_found(index, entries[i]);
      EXPECT_EQ(index.position_of(entries[i].unit).value(), i);
      expect_absent(index, entries[i].unit - 1);
      expect_absent(index, entries[i].unit + 1);
      EXPECT_EQ(index.at(i).value(), entries[i]);
    }
    expect_absent(index, 0);
    expect_absent(index, ~std::uint64_t{0});
    EXPECT_TRUE(index.check_all());
  }
}

TEST(MemoryIndexTest, ReadsBytesAtAnyAlignment) {
  Bytes file = sample_index(300);
  file.insert(file.begin(), std::byte{0});
  const MemoryIndex index = MemoryIndex::open(std::span(file).subspan(1)).value();
  for (const IndexEntry& entry : sample_entries(300)) expect_found(index, entry);
}

TEST(MemoryIndexTest, KeepsWorkingWhenMoved) {
  const Bytes file = sample_index(300);
  MemoryIndex first = MemoryIndex::open(file).value();
  expect_found(first, sample_entries(300)[0]);
  const MemoryIndex second = std::move(first);
  expect_found(second, sample_entries(300)[299]);
  EXPECT_TRUE(second.check_all());
}

TEST(MemoryIndexTest, IsCanonical) {
  const Bytes file = sample_index(300);
  const MemoryIndex index = MemoryIndex::open(file).value();
  std::vector<IndexEntry> entries;
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) entries.push_back(index.at(i).value());
  EXPECT_EQ(encode_memory_index(entries, index.unit_bytes()), file);
}

TEST(MemoryIndexTest, DigestNamesContentAndNotPlace) {
  std::vector<IndexEntry> entries = sample_entries(3);
  const Sha256 digest = memory_digest(entries, kDefaultUnitBytes);
  EXPECT_NE(memory_digest(entries, 4096), digest);
  entries[1].place = 0;
  EXPECT_EQ(memory_digest(entries, kDefaultUnitBytes), digest);
  entries[1].sum[0] ^= std::byte{1};
  EXPECT_NE(memory_digest(entries, kDefaultUnitBytes), digest);
}

// The digest as memory_index.h words it: 8 bytes of unit size, then 24 of each entry.
TEST(MemoryIndexTest, DigestIsWhatTheHeaderSays) {
  Bytes summed(8);
  store<std::uint64_t>(summed.data(), kDefaultUnitBytes);
  for (const IndexEntry& entry : sample_entries(3)) {
    const auto bytes = std::as_bytes(std::span(&entry, 1)).first(24);
    summed.insert(summed.end(), bytes.begin(), bytes.end());
  }
  EXPECT_EQ(sha256(summed), memory_digest(sample_entries(3), kDefaultUnitBytes));
}

TEST(MemoryIndexTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_index.bin");
  const Result<MemoryIndex> index = MemoryIndex::open(file);
  ASSERT_TRUE(index) << index.error().context;
  ASSERT_TRUE(index->check_all()) << index->check_all().error().context;
  EXPECT_EQ(index->unit_bytes(), kDefaultUnitBytes);
  ASSERT_EQ(index->entry_count(), 130);
  const IndexEntry last = index->at(129).value();
  EXPECT_EQ(last.unit, 389);
  EXPECT_EQ(last.place, 129 * kDefaultUnitBytes);
  EXPECT_EQ(last.sum, sample_entries(130)[129].sum);
  EXPECT_EQ(sample_index(130), file);
}

TEST(MemoryIndexTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(sample_index(130), read);
}

TEST(MemoryIndexTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(sample_index(130), "index", read);
}

TEST(MemoryIndexTest, HeadRules) {
  const Bytes good = sample_index(3);
  const std::string big = "1152921504606846976";
  Bytes other = good;
  other[0] = std::byte{'W'};
  EXPECT_EQ(error_of(other), "index: magic: not a Volt index");
  EXPECT_EQ(error_of(with_head<std::uint16_t>(good, 8, 2)), "index: major: 2, this build reads 1");
  EXPECT_EQ(error_of(with_head<std::uint16_t>(good, 10, 77)), "none");
  EXPECT_EQ(error_of(with_head<std::uint32_t>(good, 24, 1)),
            "index: must_be_zero: 1, needs a newer build");
  for (const std::uint32_t unit : {0U, 2048U, 65537U, 4U << 20}) {
    EXPECT_EQ(error_of(with_head(good, 12, unit)), "index: unit_bytes: " + std::to_string(unit) +
                                                       ", not a power of two from 4 KiB to 2 MiB");
  }
  EXPECT_EQ(error_of(with_head<std::uint32_t>(good, 28, 1)), "index: reserved: not zero");
  EXPECT_EQ(error_of(with_head<std::uint64_t>(good, 16, 4)),
            "index: entry_count: 4 does not fit a file of 192 bytes");
  EXPECT_EQ(error_of(with_head(good, 16, std::uint64_t{1} << 60)),
            "index: entry_count: " + big + ", at most 1073741824");
  EXPECT_EQ(error_of(with_head<std::uint8_t>(good, 32, 1)),
            "index: block 0: sum: bytes changed since it was written, or belong elsewhere");
  EXPECT_EQ(MemoryIndex::open(with_head<std::uint32_t>(good, 24, 1)).error().code,
            Code::kUnsupported);
}

// Counts whose product with 32 wraps around to the true size.
TEST(MemoryIndexTest, HugeCountsAreRefusedWithoutAllocating) {
  const Bytes good = sample_index(3);
  for (const std::uint64_t count :
       {(std::uint64_t{1} << 59) + 3, ~std::uint64_t{0}, ~std::uint64_t{0} - 127,
        std::uint64_t{1} << 30, std::uint64_t{1} << 58}) {
    const Result<> opened = read(with_head(good, 16, count));
    ASSERT_FALSE(opened) << count;
    EXPECT_EQ(opened.error().code, Code::kCorrupt);
    EXPECT_TRUE(opened.error().context.starts_with("index: entry_count: " + std::to_string(count)))
        << opened.error().context;
  }
}

TEST(MemoryIndexTest, BytesBehindTheLastBlockAreRefused) {
  for (const std::size_t extra : {1UZ, 15UZ, 16UZ, 17UZ, 32UZ, 47UZ, 48UZ}) {
    for (const std::size_t n : {0UZ, 1UZ, 128UZ}) {
      Bytes file = sample_index(n);
      file.resize(file.size() + extra);
      EXPECT_TRUE(error_of(file).starts_with("index: entry_count: ")) << n << " and " << extra;
    }
  }
}

TEST(MemoryIndexTest, UnitSizes) {
  for (std::uint64_t bytes = 4096; bytes <= 2 << 20; bytes *= 2) EXPECT_TRUE(is_unit_size(bytes));
  for (const std::uint64_t bytes :
       {0ULL, 1ULL, 2048ULL, 4095ULL, 4097ULL, 12288ULL, 4ULL << 20, (1ULL << 32) + 4096, ~0ULL}) {
    EXPECT_FALSE(is_unit_size(bytes)) << bytes;
  }
}

TEST(MemoryIndexTest, SwappedBlocksAreSeen) {
  Bytes file = sample_index(512);
  std::swap_ranges(block(file, 1), block(file, 2), block(file, 2));
  const MemoryIndex index = MemoryIndex::open(file).value();
  EXPECT_TRUE(index.at(0));
  for (const std::uint64_t i : {128UZ, 256UZ}) {
    EXPECT_EQ(index.at(i).error().context,
              "index: block " + std::to_string(i / 128) +
                  ": sum: bytes changed since it was written, or belong elsewhere");
  }
}

TEST(MemoryIndexTest, TransplantedBlockIsSeen) {
  Bytes file = sample_index(512);
  Bytes donor = sample_index(512, 1);
  std::copy_n(block(donor, 3), kBlockBytes, block(file, 3));
  EXPECT_EQ(error_of(file),
            "index: block 3: sum: bytes changed since it was written, or belong elsewhere");
}

TEST(MemoryIndexTest, DamageIsFoundWhereItIsAndNotBefore) {
  const std::vector<IndexEntry> entries = sample_entries(1024);
  Bytes file = encode_memory_index(entries, kDefaultUnitBytes);
  block(file, 5)[7] ^= std::byte{1};
  const MemoryIndex index = MemoryIndex::open(file).value();
  for (std::size_t i = 0; i < 128; ++i) expect_found(index, entries[i]);
  EXPECT_TRUE(index.at(1023));
  const std::string damage =
      "index: block 5: sum: bytes changed since it was written, or belong elsewhere";
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(index.find(entries[640].unit).error().context, damage);
    EXPECT_EQ(index.position_of(entries[640].unit).error().context, damage);
    EXPECT_EQ(index.at(640).error().context, damage);
    EXPECT_EQ(index.check_all().error().context, damage);
    EXPECT_EQ(index.at(767).error().code, Code::kCorrupt);
  }
}

TEST(MemoryIndexTest, EntriesOutOfOrderAreRefused) {
  IndexEntry entry = sample_entries(3)[1];
  entry.unit = 8;  // entry 2 has 8
  EXPECT_EQ(error_of(with_entry(3, 1, entry)),
            "index: block 0: entry 2: unit not above the one before");
  entry.unit = 1;  // entry 0 has 2
  EXPECT_EQ(error_of(with_entry(3, 1, entry)),
            "index: block 0: entry 1: unit not above the one before");
}

TEST(MemoryIndexTest, EntriesBeyondTheLimitsAreRefused) {
  IndexEntry entry = sample_entries(3)[2];
  const std::string error = "index: block 0: entry 2: unit or place beyond the limits";
  entry.unit = (std::uint64_t{1} << 52) / kDefaultUnitBytes;
  EXPECT_EQ(error_of(with_entry(3, 2, entry)), error);
  entry = sample_entries(3)[2];
  entry.place = ~std::uint64_t{0};
  EXPECT_EQ(error_of(with_entry(3, 2, entry)), error);
  entry.place = kMaxMemoryBytes - kDefaultUnitBytes + 1;
  EXPECT_EQ(error_of(with_entry(3, 2, entry)), error);
}

TEST(MemoryIndexTest, DigestOfOtherEntriesIsSeenByCheckAll) {
  IndexEntry entry = sample_entries(3)[1];
  entry.sum[3] ^= std::byte{1};
  const Bytes file = with_entry(3, 1, entry);
  const MemoryIndex index = MemoryIndex::open(file).value();
  EXPECT_TRUE(index.at(1));
  EXPECT_EQ(index.check_all().error().context, "index: digest: names other entries than these");
}

// A liar's index: each block in order, their sums right, the second below the first.
TEST(MemoryIndexTest, BlocksOutOfOrderAreSeenByCheckAll) {
  Bytes file = sample_index(129);
  IndexEntry last = sample_entries(129)[128];
  last.unit = 1;
  const std::size_t at = kIndexHeadBytes + kBlockBytes;
  std::memcpy(file.data() + at, &last, sizeof last);
  const Xxh128 sum =
      xxh128(std::span(file).subspan(at, sizeof last), load<std::uint64_t>(file.data() + 32) + 1);
  std::ranges::copy(sum, file.end() - sizeof sum);
  EXPECT_EQ(error_of(file), "index: block 1: does not begin above the block before");
}

TEST(MemoryIndexTest, ManyThreadsFindTheSame) {
  const std::vector<IndexEntry> entries = sample_entries(4000);
  const Bytes file = encode_memory_index(entries, kDefaultUnitBytes);
  const MemoryIndex index = MemoryIndex::open(file).value();
  std::atomic<std::size_t> right = 0;
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t n = 0; n < entries.size(); ++n) {
          const IndexEntry& entry = entries[(n * 37 + t * 501) % entries.size()];
          const auto found = index.find(entry.unit);
          if (found && *found == entry) ++right;
        }
      });
    }
  }
  EXPECT_EQ(right, 8 * entries.size());
}

TEST(MemoryIndexDeathTest, WritingDisorderIsTheCallersBug) {
  std::vector<IndexEntry> entries = sample_entries(2);
  std::swap(entries[0], entries[1]);
  EXPECT_DEATH(encode_memory_index(entries, kDefaultUnitBytes), "entries not ascending");
  EXPECT_DEATH(encode_memory_index({}, 5000), "unit_bytes");
}

}  // namespace
}  // namespace volt::formats
