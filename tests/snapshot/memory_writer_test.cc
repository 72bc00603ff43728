// Guest memory into a sparse file, an index, and the summary that restores map by.
#include "snapshot/memory_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <random>

#include "tests/formats/samples.h"
#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {
namespace {

using formats::IndexEntry;
using vmm::GuestMemory;

constexpr std::uint64_t kHigh = guest_abi::kHighRamBase;

GuestMemory two_regions() {
  const vmm::RegionLayout layout[] = {{0, 16 * kMiB}, {kHigh, 8 * kMiB}};
  return must(GuestMemory::anonymous(layout));
}

void poke(const GuestMemory& memory, std::uint64_t address, std::byte value) {
  must(memory.write(address, std::span(&value, 1)));
}

Result<std::vector<IndexEntry>> write_own(const GuestMemory& memory, const Fd& file,
                                          std::uint64_t unit_bytes = kUnitBytes) {
  snapshot::OwnUnits units(unit_bytes);
  return snapshot::write_memory(memory, units, unit_bytes, file);
}

struct Written {
  Fd file{::memfd_create("memory", MFD_CLOEXEC)};
  std::vector<IndexEntry> entries;

  explicit Written(const GuestMemory& memory) : entries(must(write_own(memory, file))) {}
  std::vector<std::byte> unit(std::uint64_t place) const {
    std::vector<std::byte> bytes(kUnitBytes);
    must(read_exact(file, bytes, place, "memory"));
    return bytes;
  }
};

TEST(MemoryWriterTest, OnlyUnitsThatHoldSomethingAreWritten) {
  const GuestMemory memory = two_regions();
  poke(memory, 5 * kUnitBytes, std::byte{1});                 // first byte of its unit
  poke(memory, 8 * kUnitBytes - 1, std::byte{2});             // last byte of its unit
  poke(memory, 100 * kUnitBytes, std::byte{0});               // touched, and still zero
  poke(memory, kHigh + 8 * kMiB - kUnitBytes, std::byte{3});  // the very last unit
  const Written written(memory);

  ASSERT_EQ(written.entries.size(), 3U);
  const std::uint64_t expected[][2] = {
      {5, 5 * kUnitBytes},
      {7, 7 * kUnitBytes},
      {(kHigh + 8 * kMiB) / kUnitBytes - 1, 24 * kMiB - kUnitBytes}};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(written.entries[i].unit, expected[i][0]);
    EXPECT_EQ(written.entries[i].place, expected[i][1]);
    EXPECT_EQ(written.entries[i].sum, formats::xxh128(written.unit(expected[i][1])));
  }
  EXPECT_EQ(written.unit(5 * kUnitBytes)[0], std::byte{1});
  EXPECT_EQ(written.unit(7 * kUnitBytes)[kUnitBytes - 1], std::byte{2});
}

TEST(MemoryWriterTest, TheFileIsAsLongAsTheMemoryAndTakesOnlyWhatItHolds) {
  const GuestMemory memory = two_regions();
  poke(memory, 5 * kUnitBytes, std::byte{1});
  const Written written(memory);
  struct stat info = {};
  ASSERT_EQ(::fstat(written.file.get(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), 24 * kMiB);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_blocks) * 512, kUnitBytes);
}

TEST(MemoryWriterTest, MemoryThatNobodyTouchedIsNotTouchedByACaptureEither) {
  const GuestMemory memory = two_regions();
  poke(memory, 5 * kUnitBytes, std::byte{1});
  const Written written(memory);
  const std::span<std::byte> host = memory.regions()[0].host.bytes();
  std::vector<unsigned char> resident(host.size() / 4096);
  ASSERT_EQ(::mincore(host.data(), host.size(), resident.data()), 0);
  const auto pages = std::count_if(resident.begin(), resident.end(), [](auto r) { return r & 1; });
  EXPECT_LE(pages, static_cast<std::ptrdiff_t>(kUnitBytes / 4096));
}

TEST(MemoryWriterTest, ContentBehindAMappingIsWrittenThoughNobodyTouchedIt) {
  const Fd image{::memfd_create("image", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(image.get(), 2 * kMiB), 0);
  must(write_all(image, std::as_bytes(std::span("content")), kMiB, "image"));
  Mapping host =
      must(Mapping::create(2 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE, image.get(), 0, "image"));
  std::vector<GuestMemory::Region> regions;
  regions.push_back({0, std::move(host), {{kMiB, kUnitBytes}}});
  const Written written{GuestMemory(std::move(regions))};
  ASSERT_EQ(written.entries.size(), 1U);
  EXPECT_EQ(written.entries[0].place, kMiB);
}

TEST(MemoryWriterTest, APageThatCannotBeHadIsAnErrorNotZeros) {
  const Fd image{::memfd_create("image", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(image.get(), 2 * kMiB), 0);
  Mapping host =
      must(Mapping::create(2 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE, image.get(), 0, "image"));
  std::vector<GuestMemory::Region> regions;
  regions.push_back({0, std::move(host), {{0, 2 * kMiB}}});
  ASSERT_EQ(::ftruncate(image.get(), kMiB), 0);
  const Fd file{::memfd_create("memory", MFD_CLOEXEC)};
  const GuestMemory memory(std::move(regions));
  EXPECT_EQ(must_fail(write_own(memory, file)).code, Code::kPageLost);
}

TEST(MemoryWriterTest, ARegionThatIsNotWholeUnitsIsRefused) {
  const vmm::RegionLayout layout[] = {{0, 2 * kMiB}, {4 * kMiB + 4096, kMiB + 4096}};
  const GuestMemory memory = must(GuestMemory::anonymous(layout));
  const Fd file{::memfd_create("memory", MFD_CLOEXEC)};
  for (const std::uint64_t unit : {8192U, 65'536U}) {
    const Error error = must_fail(write_own(memory, file, unit));
    EXPECT_EQ(error.code, Code::kInvalid);
    EXPECT_TRUE(contains(error.context, "whole units")) << error.context;
  }
  expect_ok(write_own(memory, file, 4096));
}

// ---- Extents: the rules of manifest.proto, and that nothing is left out of them.

struct Layout {
  std::vector<vmm::RegionLayout> regions;
  std::vector<IndexEntry> entries;
};

formats::v1::Memory describe(const Layout& layout) {
  return snapshot::describe_memory(must(GuestMemory::anonymous(layout.regions)), kUnitBytes,
                                   layout.entries);
}

std::vector<std::uint64_t> gaps_of(std::span<const IndexEntry> entries, std::uint64_t total) {
  std::vector<std::uint64_t> gaps;
  std::uint64_t end = 0;
  for (const IndexEntry& entry : entries) {
    gaps.push_back(entry.place - end);
    end = entry.place + kUnitBytes;
  }
  gaps.push_back(total - end);
  std::erase_if(gaps, [](std::uint64_t gap) { return gap < formats::kMinGapBytes; });
  std::ranges::sort(gaps, std::greater<>());
  return gaps;
}

void expect_good_summary(const Layout& layout) {
  const formats::v1::Memory memory = describe(layout);
  formats::Manifest manifest = formats::sample_manifest();
  manifest.mutable_guest()->set_working_set_bytes(0);
  *manifest.mutable_memory() = memory;
  expect_ok(formats::check(manifest));
  const auto in_extents = [&](const IndexEntry& entry) {
    return std::ranges::any_of(memory.data(), [&](const auto& extent) {
      return entry.place - extent.file_offset() < extent.size_bytes();
    });
  };
  EXPECT_TRUE(std::ranges::all_of(layout.entries, in_extents));

  std::uint64_t total = 0, data = 0, longest = 0;
  for (const auto& region : layout.regions) total += region.bytes;
  for (const auto& extent : memory.data()) data += extent.size_bytes();
  std::vector<std::uint64_t> gaps = gaps_of(layout.entries, total);
  if (gaps.size() > formats::kMaxGaps) gaps.resize(formats::kMaxGaps);
  for (const std::uint64_t gap : gaps) longest += gap;
  EXPECT_EQ(total - data, longest) << "other gaps are left out than the longest";
}

// Units of a layout by their place in the memory file; `units` ascends.
Layout layout_of(std::vector<vmm::RegionLayout> regions, const std::vector<std::uint64_t>& units) {
  Layout layout = {std::move(regions), {}};
  for (const std::uint64_t unit : units) {
    std::uint64_t offset = unit * kUnitBytes;
    auto region = layout.regions.begin();
    for (; offset >= region->bytes; ++region) offset -= region->bytes;
    layout.entries.push_back({.unit = (region->guest_base + offset) / kUnitBytes,
                              .sum = {},
                              .place = unit * kUnitBytes});
  }
  return layout;
}

const std::vector<vmm::RegionLayout> kOne = {{0, 256 * kMiB}};
const std::vector<vmm::RegionLayout> kTwo = {{0, 128 * kMiB}, {kHigh, 128 * kMiB}};

TEST(MemorySummaryTest, MemoryOfZerosHasNoExtentAtAll) {
  expect_good_summary({kTwo, {}});
  EXPECT_EQ(describe({kTwo, {}}).data_size(), 0);
  EXPECT_EQ(describe({kTwo, {}}).stored_bytes(), 0U);
}

TEST(MemorySummaryTest, AGapOfTwoMiBIsLeftOutAndAShorterOneIsNot) {
  const std::uint64_t shortest = formats::kMinGapBytes / kUnitBytes;
  for (const std::uint64_t gap : {shortest - 1, shortest, shortest + 1}) {
    const Layout layout = layout_of(kOne, {0, gap + 1});
    expect_good_summary(layout);
    EXPECT_EQ(describe(layout).data_size(), gap < shortest ? 1 : 2) << gap;
  }
}

TEST(MemorySummaryTest, OfManyGapsTheEightLongestAreLeftOut) {
  std::vector<std::uint64_t> units;
  for (std::uint64_t i = 0, at = 0; i < 20; ++i, at += 40 + (i * 7) % 20) units.push_back(at);
  const Layout layout = layout_of(kOne, units);
  expect_good_summary(layout);
  EXPECT_EQ(describe(layout).data_size(), 8);  // the last gap reaches the end of the memory
}

TEST(MemorySummaryTest, NoExtentReachesFromOneRegionIntoTheNext) {
  const std::uint64_t border = 128 * kMiB / kUnitBytes;
  const Layout touching = layout_of(kTwo, {border - 1, border});
  expect_good_summary(touching);
  EXPECT_EQ(describe(touching).data_size(), 2);
  expect_good_summary(layout_of(kTwo, {border - 10, border + 10}));
  expect_good_summary(layout_of(kTwo, {border}));
  expect_good_summary(layout_of(kTwo, {border - 1}));
}

TEST(MemorySummaryTest, AnyMemoryIsSummarisedByTheRules) {
  const std::uint32_t seed = 20'24;
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::uint64_t> units;
    std::geometric_distribution<std::uint64_t> step(0.5 / static_cast<double>(1 + random() % 100));
    for (std::uint64_t at = step(random); at < 256 * kMiB / kUnitBytes; at += 1 + step(random)) {
      units.push_back(at);
    }
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", round " << round);
    expect_good_summary(layout_of(round % 2 == 0 ? kOne : kTwo, units));
    if (HasFailure()) return;
  }
}

TEST(MemorySummaryTest, TheDigestNamesTheContentAndNotItsPlace) {
  Layout layout = layout_of(kOne, {1, 2, 3});
  const std::string digest = describe(layout).digest();
  layout.entries[2].place += kUnitBytes;
  EXPECT_EQ(describe(layout).digest(), digest);
  layout.entries[2].sum[0] = std::byte{1};
  EXPECT_NE(describe(layout).digest(), digest);
}

}  // namespace
}  // namespace volt::test
