// Choosing a loader, and what each does to a clone's memory before and while it runs.
#include "snapshot/loader.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::choose_loader;
using snapshot::load_memory;
using snapshot::LoadedMemory;
using snapshot::OpenedSnapshot;

TEST(LoaderTest, EveryLoaderHasANameThatParsesToIt) {
  for (const Loader loader : {Loader::kAuto, Loader::kMap, Loader::kUffd, Loader::kCopy}) {
    EXPECT_EQ(snapshot::parse_loader(snapshot::loader_name(loader)).value(), loader);
  }
  const Error error = must_fail(snapshot::parse_loader("mmap"));
  EXPECT_EQ(error.code, Code::kInvalid);
  EXPECT_TRUE(contains(error.context, "auto, map, uffd or copy")) << error.context;
}

TEST(LoaderTest, OnlyAutoChoosesAndItSaysWhy) {
  for (const Loader loader : {Loader::kMap, Loader::kUffd, Loader::kCopy}) {
    EXPECT_EQ(choose_loader(loader, true).value().loader, loader);
    EXPECT_EQ(choose_loader(loader, true).value().why, "asked for");
  }
  EXPECT_EQ(choose_loader(Loader::kAuto, true).value().loader, Loader::kMap);
  EXPECT_NE(choose_loader(Loader::kAuto, true).value().why, "asked for");
}

TEST(LoaderTest, WhatIsPackedCannotBeMapped) {
  EXPECT_EQ(must_fail(choose_loader(Loader::kMap, false)).code, Code::kConflict);
  EXPECT_EQ(choose_loader(Loader::kCopy, false).value().loader, Loader::kCopy);
  const snapshot::ChosenLoader chosen = choose_loader(Loader::kAuto, false).value();
  EXPECT_EQ(chosen.loader, snapshot::uffd_usable() ? Loader::kUffd : Loader::kCopy);
  EXPECT_TRUE(contains(chosen.why, "no one raw file")) << chosen.why;
}

class LoadTest : public EveryLoaderTest {
 protected:
  void SetUp() override {
    EveryLoaderTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::unique_ptr<Sandbox> guest = boot_kv();
    capture(*guest, "kv");
    captured_ = memory_of(*guest);
    snapshot_ =
        std::make_shared<const OpenedSnapshot>(must(OpenedSnapshot::open(store(), named("kv"))));
  }
  LoadedMemory load() const { return must(load_memory(GetParam(), snapshot_)); }
  const OpenedSnapshot& snapshot() const { return *snapshot_; }
  const std::vector<std::byte>& captured() const { return captured_; }

 private:
  std::vector<std::byte> captured_;
  std::shared_ptr<const OpenedSnapshot> snapshot_;
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, LoadTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

std::size_t resident_pages(std::span<std::byte> memory) {
  std::vector<unsigned char> pages(memory.size() / 4096);
  EXPECT_EQ(::mincore(memory.data(), memory.size(), pages.data()), 0);
  return static_cast<std::size_t>(
      std::count_if(pages.begin(), pages.end(), [](auto page) { return page & 1; }));
}

TEST_P(LoadTest, TheHostReadsTheCapturedBytesInAnyOrder) {
  const LoadedMemory loaded = load();
  std::vector<std::byte> page(4096);
  // 4,093 is prime to the number of pages, so this walks them all, back and forth.
  const std::size_t pages = captured().size() / page.size();
  for (std::size_t i = 0, n = 0; i < pages; ++i, n = (n + 4'093) % pages) {
    must(loaded.memory.read(n * page.size(), page));
    ASSERT_TRUE(std::equal(page.begin(), page.end(),
                           captured().begin() + static_cast<std::ptrdiff_t>(n * page.size())))
        << "page " << n;
  }
}

// As a balloon does with memory that a guest gives back: touched before or not, it is zero, and
// what lies beside it is as it was.
TEST_P(LoadTest, WhatAGuestGaveBackIsZeroAndNeverTheSnapshotsAgain) {
  const LoadedMemory loaded = load();
  constexpr std::uint64_t kGiven = 2, kPage = 4096;
  for (const std::uint64_t touched : {0U, 1U}) {
    std::vector<std::byte> page(kPage);
    // Pages that hold something, with one on each side that does, too.
    std::uint64_t at = 64 * touched * kPage;
    const auto holds = [&](std::uint64_t n) {
      const auto bytes = std::span(captured()).subspan(at + n * kPage, kPage);
      return std::ranges::any_of(bytes, [](std::byte each) { return each != std::byte{0}; });
    };
    while (!holds(0) || !holds(1) || !holds(2) || !holds(3)) at += kPage;
    const std::uint64_t given = at + kPage;
    if (touched == 1) must(loaded.memory.write(given, page));
    EXPECT_TRUE(must(loaded.memory.discard(given, kGiven * kPage)));
    for (std::uint64_t n = 0; n < 4; ++n) {
      must(loaded.memory.read(at + n * kPage, page));
      const auto before = std::span(captured()).subspan(at + n * kPage, kPage);
      const std::vector<std::byte> zeros(kPage);
      const bool kept = n == 0 || n == 3;
      EXPECT_TRUE(std::ranges::equal(page, kept ? before : std::span<const std::byte>(zeros)))
          << "page " << n << ", touched " << touched;
    }
  }
}

TEST_P(LoadTest, TwoLoadsOfOneSnapshotDoNotSeeEachOthersWrites) {
  const LoadedMemory one = load();
  const LoadedMemory other = load();
  const std::vector<std::byte> mark(100, std::byte{0xA5});
  for (std::uint64_t address = 0; address < kSmallRam; address += kMiB) {
    must(one.memory.write(address + 50, mark));
  }
  std::vector<std::byte> all(kSmallRam);
  must(other.memory.read(0, all));
  EXPECT_EQ(all, captured());
  must(one.memory.read(5 * kMiB + 50, std::span(all).first(100)));
  EXPECT_TRUE(std::equal(mark.begin(), mark.end(), all.begin()));
}

TEST_P(LoadTest, OnlyThePagerHasAPagerAndItAsksForEachUnitOnce) {
  const LoadedMemory loaded = load();
  if (GetParam() != Loader::kUffd) {
    EXPECT_EQ(loaded.pager.server(), nullptr);
    return;
  }
  ASSERT_NE(loaded.pager.server(), nullptr);
  EXPECT_EQ(loaded.pager.server()->counts().units_filled, 0U) << "something was filled unasked";
  std::vector<std::byte> all(kSmallRam);
  must(loaded.memory.read(0, all));
  std::uint64_t extents = 0;
  for (const auto& extent : snapshot().manifest().memory().data()) extents += extent.size_bytes();
  EXPECT_EQ(loaded.pager.server()->counts().units_filled, extents / kUnitBytes);
  EXPECT_EQ(loaded.pager.server()->counts().units_failed, 0U);
  EXPECT_FALSE(loaded.pager.server()->failure());
}

TEST_P(LoadTest, ZeroRunsStayUntouchedMemory) {
  const LoadedMemory loaded = load();
  const std::span<std::byte> host = loaded.memory.regions()[0].host.bytes();
  const auto& data = snapshot().manifest().memory().data();
  const std::uint64_t end = data.rbegin()->file_offset() + data.rbegin()->size_bytes();
  ASSERT_LT(end, host.size()) << "this snapshot has no zeros at its end";
  EXPECT_EQ(resident_pages(host.subspan(end)), 0U);
}

}  // namespace
}  // namespace volt::test
