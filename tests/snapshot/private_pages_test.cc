// Which pages a process has to itself: each case by name, and both ways of asking on patterns that
// nobody would think of.
#include "snapshot/private_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <fstream>
#include <random>

#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {
namespace {

using snapshot::Behind;
using snapshot::kPageBytes;
using snapshot::page_scan_usable;
using snapshot::PageFinder;
using snapshot::PageRange;
using snapshot::private_pages;

using Ranges = std::vector<PageRange>;

constexpr std::uint64_t kHuge = 2 * kMiB;

Mapping anonymous(std::uint64_t bytes) {
  Mapping map = must(Mapping::create(bytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "test"));
  ::madvise(map.data(), bytes, MADV_NOHUGEPAGE);
  return map;
}

// Content in its first half, a hole behind it.
void fill_half(const Fd& file, std::uint64_t bytes) {
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
  must(write_all(file, std::vector<std::byte>(bytes / 2, std::byte{7}), 0, "file"));
}

Mapping privately(const Fd& file, std::uint64_t bytes) {
  return must(
      Mapping::create(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0, "private file"));
}

std::byte* page(const Mapping& map, std::uint64_t number) {
  return map.data() + number * kPageBytes;
}

void read_page(const Mapping& map, std::uint64_t number) {
  static_cast<void>(*static_cast<volatile std::byte*>(page(map, number)));
}

void write_page(const Mapping& map, std::uint64_t number, std::byte value) {
  *static_cast<volatile std::byte*>(page(map, number)) = value;
}

void advise(const Mapping& map, std::uint64_t number, std::uint64_t count, int advice) {
  ASSERT_EQ(::madvise(page(map, number), count * kPageBytes, advice), 0) << "advice " << advice;
}

std::string finder_title(const testing::TestParamInfo<PageFinder>& info) {
  return info.param == PageFinder::kScan ? "scan" : "read";
}

class PrivatePagesTest : public testing::TestWithParam<PageFinder> {
 protected:
  void SetUp() override {
    if (GetParam() == PageFinder::kScan && !page_scan_usable()) {
      GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN (Linux 6.7)";
    }
  }
  Ranges find(const Mapping& map, Behind behind) const {
    return must(private_pages(map.bytes(), behind, GetParam()));
  }
};

INSTANTIATE_TEST_SUITE_P(EveryFinder, PrivatePagesTest,
                         testing::Values(PageFinder::kScan, PageFinder::kRead), finder_title);

// Under a memfd and under a file of a disk.
class PrivateFilePagesTest : public PrivatePagesTest {
 protected:
  static constexpr std::uint64_t kPages = 64;

  void SetUp() override {
    PrivatePagesTest::SetUp();
    const std::string path = dir_.path() + "/file";
    files_.push_back(Fd(::memfd_create("test", MFD_CLOEXEC)));
    files_.push_back(must(open_at(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT, 0600)));
    for (const Fd& file : files_) {
      fill_half(file, kPages * kPageBytes);
      maps_.push_back(privately(file, kPages * kPageBytes));
      advise(maps_.back(), 0, kPages, MADV_NOHUGEPAGE);
    }
  }
  void expect(const Ranges& expected) const {
    for (const Mapping& map : maps_) EXPECT_EQ(find(map, Behind::kFile), expected);
  }
  const std::vector<Mapping>& maps() const { return maps_; }
  const std::vector<Fd>& files() const { return files_; }

 private:
  TempDir dir_;
  std::vector<Fd> files_;
  std::vector<Mapping> maps_;
};

INSTANTIATE_TEST_SUITE_P(EveryFinder, PrivateFilePagesTest,
                         testing::Values(PageFinder::kScan, PageFinder::kRead), finder_title);

TEST_P(PrivateFilePagesTest, UntouchedPagesAreNot) {
  expect({});
}

TEST_P(PrivateFilePagesTest, PagesThatWereOnlyReadAreNotWhetherContentOrAHole) {
  for (const Mapping& map : maps()) {
    for (std::uint64_t n = 0; n < kPages; n += 3) read_page(map, n);
    advise(map, 50, 10, MADV_POPULATE_READ);
  }
  expect({});
}

TEST_P(PrivateFilePagesTest, WrittenPagesAreAndNeighboursAreOneRange) {
  for (const Mapping& map : maps()) {
    for (const std::uint64_t n : {0U, 5U, 6U, 7U, 40U, 63U}) write_page(map, n, std::byte{1});
  }
  expect({{0, 1}, {5, 3}, {40, 1}, {63, 1}});
}

TEST_P(PrivateFilePagesTest, APageThatWasReadAndThenWrittenIs) {
  for (const Mapping& map : maps()) {
    read_page(map, 9);
    write_page(map, 9, std::byte{1});
  }
  expect({{9, 1}});
}

TEST_P(PrivateFilePagesTest, APageWrittenWithWhatItHeldOrSetBackToZeroIs) {
  for (const Mapping& map : maps()) {
    write_page(map, 3, std::byte{7});
    write_page(map, 50, std::byte{1});
    std::fill_n(page(map, 50), kPageBytes, std::byte{0});
  }
  expect({{3, 1}, {50, 1}});
}

TEST_P(PrivateFilePagesTest, PopulatedForWritingAndNeverWrittenIsACandidate) {
  for (const Mapping& map : maps()) advise(map, 30, 4, MADV_POPULATE_WRITE);
  expect({{30, 4}});
}

TEST_P(PrivateFilePagesTest, ADroppedPageShowsTheFileAgainAndIsNot) {
  for (const Mapping& map : maps()) {
    for (std::uint64_t n = 10; n < 20; ++n) write_page(map, n, std::byte{1});
    advise(map, 12, 3, MADV_DONTNEED);
    read_page(map, 12);
  }
  expect({{10, 2}, {15, 5}});
}

TEST_P(PrivateFilePagesTest, WhatOthersWriteIntoTheFileIsNot) {
  for (std::size_t i = 0; i < maps().size(); ++i) {
    const Mapping other = privately(files()[i], kPages * kPageBytes);
    read_page(maps()[i], 8);
    write_page(other, 8, std::byte{1});
    must(write_all(files()[i], std::vector<std::byte>(2 * kPageBytes, std::byte{3}), 0, "file"));
  }
  expect({});
}

TEST_P(PrivateFilePagesTest, LookingChangesNothing) {
  for (const Mapping& map : maps()) {
    write_page(map, 4, std::byte{1});
    find(map, Behind::kFile);
    EXPECT_EQ(find(map, Behind::kNothing), (Ranges{{4, 1}})) << "a page became present";
  }
}

// With more ranges than fit into one answer of the kernel, and more pages than into one read.
TEST_P(PrivatePagesTest, ManyRangesOfALargeMappingAreAllFound) {
  constexpr std::uint64_t kPages = 40'000;
  const Fd file(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kPages * kPageBytes), 0);
  const Mapping map = privately(file, kPages * kPageBytes);
  Ranges expected;
  for (std::uint64_t n = 1; n + 3 < kPages; n += 10) {
    write_page(map, n, std::byte{1});
    write_page(map, n + 1, std::byte{1});
    read_page(map, n + 3);
    expected.push_back({n, 2});
  }
  EXPECT_EQ(find(map, Behind::kFile), expected);
  for (std::uint64_t n = 0; n < kPages; ++n) write_page(map, n, std::byte{1});
  EXPECT_EQ(find(map, Behind::kFile), (Ranges{{0, kPages}}));
}

TEST_P(PrivatePagesTest, AGuestOf64GiBWithTwoPagesIsTwoRanges) {
  constexpr std::uint64_t kBytes = std::uint64_t{64} << 30;
  const Mapping map = anonymous(kBytes);
  write_page(map, 1'000'000, std::byte{1});
  write_page(map, kBytes / kPageBytes - 1, std::byte{1});
  EXPECT_EQ(find(map, Behind::kNothing), (Ranges{{1'000'000, 1}, {kBytes / kPageBytes - 1, 1}}));
}

// ---- Anonymous memory.

TEST_P(PrivatePagesTest, OfAnonymousMemoryEveryPageThatIsThereIs) {
  const Mapping map = anonymous(kMiB);
  write_page(map, 3, std::byte{1});
  write_page(map, 4, std::byte{0});
  advise(map, 20, 2, MADV_POPULATE_WRITE);
  EXPECT_EQ(find(map, Behind::kNothing), (Ranges{{3, 2}, {20, 2}}));
  advise(map, 3, 1, MADV_DONTNEED);
  EXPECT_EQ(find(map, Behind::kNothing), (Ranges{{4, 1}, {20, 2}}));
}

TEST_P(PrivatePagesTest, TheSharedPageOfZerosOfAnonymousMemoryIsReported) {
  const Mapping map = anonymous(kMiB);
  read_page(map, 7);
  EXPECT_EQ(find(map, Behind::kNothing), (Ranges{{7, 1}}));
}

TEST_P(PrivatePagesTest, TheHugeSharedPageOfZerosIsReportedToo) {
  const Mapping map = anonymous(2 * kHuge);
  const std::uint64_t aligned =
      (reinterpret_cast<std::uintptr_t>(map.data()) + kHuge - 1) / kHuge * kHuge;
  const std::uint64_t first = (aligned - reinterpret_cast<std::uintptr_t>(map.data())) / kPageBytes;
  advise(map, first, kHuge / kPageBytes, MADV_HUGEPAGE);
  read_page(map, first + 9);
  const Ranges found = find(map, Behind::kNothing);
  if (found == Ranges{{first + 9, 1}}) GTEST_SKIP() << "this kernel has no huge page of zeros";
  EXPECT_EQ(found, (Ranges{{first, kHuge / kPageBytes}}));
}

TEST_P(PrivatePagesTest, AWrittenHugePageIsReportedWhole) {
  const Mapping map = anonymous(2 * kHuge);
  const std::uint64_t aligned =
      (reinterpret_cast<std::uintptr_t>(map.data()) + kHuge - 1) / kHuge * kHuge;
  const std::uint64_t first = (aligned - reinterpret_cast<std::uintptr_t>(map.data())) / kPageBytes;
  advise(map, first, kHuge / kPageBytes, MADV_HUGEPAGE);
  write_page(map, first + 9, std::byte{1});
  const Ranges found = find(map, Behind::kNothing);
  if (found == Ranges{{first + 9, 1}}) GTEST_SKIP() << "no huge pages here";
  EXPECT_EQ(found, (Ranges{{first, kHuge / kPageBytes}}));
}

// ---- Swap.

bool has_swap() {
  std::ifstream swaps("/proc/swaps");
  std::string line;
  std::getline(swaps, line);
  return static_cast<bool>(std::getline(swaps, line));
}

TEST_P(PrivatePagesTest, SwappedOutPagesAre) {
  if (!has_swap()) GTEST_SKIP() << "this machine has no swap (swapon a file to run this)";
  const Fd file(::memfd_create("test", MFD_CLOEXEC));
  fill_half(file, kMiB);
  const Mapping cloned = privately(file, kMiB);
  const Mapping own = anonymous(kMiB);
  for (const Mapping* map : {&cloned, &own}) {
    write_page(*map, 5, std::byte{1});
    write_page(*map, 200, std::byte{1});
    read_page(*map, 10);
    advise(*map, 0, 256, MADV_PAGEOUT);
  }
  const Fd pagemap = must(open_at(AT_FDCWD, "/proc/self/pagemap", O_RDONLY));
  std::uint64_t entry[1];
  must(read_exact(pagemap, std::as_writable_bytes(std::span(entry)),
                  reinterpret_cast<std::uintptr_t>(page(cloned, 5)) / kPageBytes * 8, "pagemap"));
  if ((entry[0] >> 62 & 1) == 0) GTEST_SKIP() << "the kernel kept the pages";
  EXPECT_EQ(find(cloned, Behind::kFile), (Ranges{{5, 1}, {200, 1}}));
  EXPECT_EQ(find(own, Behind::kNothing), (Ranges{{5, 1}, {10, 1}, {200, 1}}));
  read_page(cloned, 5);  // and back again
  EXPECT_EQ(find(cloned, Behind::kFile), (Ranges{{5, 1}, {200, 1}}));
}

// ---- What cannot be asked.

TEST_P(PrivatePagesTest, ARangeThatIsNotOfWholePagesIsRefused) {
  const Mapping map = anonymous(kMiB);
  for (const auto range : {map.bytes().subspan(1, kPageBytes), map.bytes().first(100)}) {
    EXPECT_EQ(must_fail(private_pages(range, Behind::kFile, GetParam())).code, Code::kInvalid);
  }
  EXPECT_TRUE(must(private_pages(map.bytes().first(0), Behind::kFile, GetParam())).empty());
}

// ---- Both ways, on whatever a guest and its host may do, over mappings side by side.

class Memory {
 public:
  explicit Memory(std::mt19937& random) : random_(random), file_(std::tmpfile()) {
    const Fd on_disk(::dup(::fileno(file_)));
    fill_half(memfd_, kBytes);
    fill_half(on_disk, kBytes);
    map_over(0, memfd_);
    map_over(2, on_disk);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::fclose(file_); }

  // Parts 0 and 2 of five show files; the others are anonymous.
  static constexpr std::uint64_t kParts = 5;
  static constexpr std::uint64_t kPartPages = 512;
  std::span<std::byte> part(std::uint64_t n) const {
    return map_.bytes().subspan(n * kBytes, kBytes);
  }
  static Behind behind(std::uint64_t n) {
    return n == 0 || n == 2 ? Behind::kFile : Behind::kNothing;
  }

  void disturb() {
    const std::uint64_t first = random_() % (kParts * kPartPages);
    const std::uint64_t count =
        1 + random_() % std::min<std::uint64_t>(40, kParts * kPartPages - first);
    static constexpr int kAdvice[] = {MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_DONTNEED,
                                      MADV_PAGEOUT, MADV_COLD};
    const auto what = random_() % 8;
    if (what < std::size(kAdvice)) {
      ::madvise(page(map_, first), count * kPageBytes, kAdvice[what]);
      return;
    }
    for (std::uint64_t n = first; n < first + count; ++n) {
      if (what == 5) read_page(map_, n);
      if (what == 6) write_page(map_, n, std::byte{5});
      if (what == 7) std::fill_n(page(map_, n), kPageBytes, std::byte{0});
    }
  }

 private:
  static constexpr std::uint64_t kBytes = kPartPages * kPageBytes;
  void map_over(std::uint64_t n, const Fd& file) {
    if (::mmap(part(n).data(), kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file.get(),
               0) == MAP_FAILED) {
      throw std::runtime_error("mmap");
    }
  }

  std::mt19937& random_;
  std::FILE* file_;
  Fd memfd_{::memfd_create("test", MFD_CLOEXEC)};
  Mapping map_ = anonymous(kParts * kBytes);
};

TEST(PrivatePagesAgreementTest, BothWaysGiveTheSamePagesWhateverWasDone) {
  if (!page_scan_usable()) GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN (Linux 6.7)";
  const std::uint32_t seed = std::random_device()();
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    Memory memory(random);
    for (int step = 0; step < 60; ++step) {
      memory.disturb();
      for (std::uint64_t n = 0; n < Memory::kParts; ++n) {
        const Behind behind = Memory::behind(n);
        const auto part = memory.part(n);
        const Ranges scanned = must(private_pages(part, behind, PageFinder::kScan));
        ASSERT_EQ(scanned, must(private_pages(part, behind, PageFinder::kRead)))
            << "seed " << seed << ", round " << round << ", step " << step << ", part " << n;
        ASSERT_EQ(scanned, must(private_pages(part, behind)));
      }
    }
  }
}

}  // namespace
}  // namespace volt::test
