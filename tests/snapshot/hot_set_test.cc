// Hot sets: what is recorded, that it changes nothing of the snapshot, and that a replay gives the
// guest the same bytes and fewer faults.
#include "snapshot/hot_set.h"

#include <poll.h>
#include <sys/mman.h>

#include <set>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::HotSetMode;
using snapshot::HotSetRole;

class HotSetTest : public EveryLoaderTest {
 protected:
  void SetUp() override {
    EveryLoaderTest::SetUp();
    if (!snapshot::uffd_usable()) GTEST_SKIP() << "recording needs userfaultfd";
    auto booted = boot_kv();
    capture(*booted, "kv");
  }

  snapshot::Restored restore_with(HotSetMode mode, std::string_view name = "kv") const {
    const snapshot::RestoreOptions options = {.loader = GetParam(), .hot_set = mode};
    return must(snapshot::restore(kvm(), store(), named(name), options));
  }

  // A recording of what `use` makes the guest touch.
  template <typename F>
  std::uint64_t record(F&& use) const {
    snapshot::Restored restored = restore_with(HotSetMode::kRecord);
    EXPECT_EQ(restored.hot_set.role, HotSetRole::kRecording);
    use(*restored.sandbox);
    return must(snapshot::save_hot_set(*restored.sandbox));
  }

  // Loader copy has nothing to replay.
  static HotSetRole replayed() {
    return GetParam() == Loader::kCopy ? HotSetRole::kNone : HotSetRole::kReplayed;
  }

  formats::HotSet recorded(std::string_view name = "kv") const {
    return must(formats::decode_hot_set(read_file(file(name, snapshot::kHotSetFile))));
  }

  std::uint64_t first_page() const {
    const auto opened = must(snapshot::OpenedSnapshot::open(store(), named("kv")));
    return opened.manifest().guest().working_set_base() / snapshot::kPageBytes;
  }
};

// Where one page of the working set is in the set; the set's size if it is not there.
std::size_t place_of(const formats::HotSet& set, std::uint64_t page) {
  std::size_t at = 0;
  while (at < set.pages.size() && set.pages[at].page != page) ++at;
  return at;
}

TEST_P(HotSetTest, FirstTouchesAreKeptInOrderAndWritesAreTold) {
  const std::uint64_t base = first_page();
  const std::uint64_t count = record([](Sandbox& sandbox) {
    must(call(sandbox, Function::kScan, {300, 1}));
    must(call(sandbox, Function::kTouch, {7}));
    must(call(sandbox, Function::kScan, {100, 2}));
  });
  const formats::HotSet set = recorded();
  EXPECT_EQ(set.pages.size(), count);
  const std::size_t scanned = place_of(set, base + 300), touched = place_of(set, base + 7);
  const std::size_t last = place_of(set, base + 101);
  ASSERT_LT(last, set.pages.size());
  EXPECT_LT(scanned, touched);
  EXPECT_LT(touched, place_of(set, base + 100));
  EXPECT_FALSE(set.pages[scanned].written);
  EXPECT_TRUE(set.pages[touched].written);
  EXPECT_FALSE(set.pages[last].written);
  EXPECT_EQ(place_of(set, base + 200), set.pages.size()) << "a page nobody touched";
}

// As KVM does for a guest with an interrupt controller: its worker asks for a page to write.
TEST_P(HotSetTest, AReadThatWasServedAsAWriteIsARead) {
  const std::uint64_t base = first_page();
  record([base](Sandbox& sandbox) {
    const auto read = must(sandbox.memory().at((base + 300) * snapshot::kPageBytes, 4096));
    ASSERT_EQ(::madvise(read.data(), read.size(), MADV_POPULATE_WRITE), 0);
    must(call(sandbox, Function::kScan, {300, 1}));
    must(call(sandbox, Function::kTouch, {7}));
  });
  const formats::HotSet set = recorded();
  ASSERT_LT(place_of(set, base + 300), set.pages.size());
  EXPECT_FALSE(set.pages[place_of(set, base + 300)].written);
  EXPECT_TRUE(set.pages[place_of(set, base + 7)].written);
}

TEST_P(HotSetTest, TheSnapshotStaysWhatItIsAndVerifyFindsNothingStrange) {
  const std::string digest = must(store().digest_of(named("kv")));
  record([](Sandbox& sandbox) { health(sandbox); });
  EXPECT_EQ(must(store().digest_of(named("kv"))), digest);
  must(snapshot::verify(store(), named("kv"), snapshot::Depth::kDeep));
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_P(HotSetTest, AReplayGivesTheSameBytesWhateverWasRecorded) {
  record([](Sandbox& sandbox) { must(call(sandbox, Function::kWrite, {0, kPages, 5})); });
  for (int round = 0; round < 5; ++round) {
    snapshot::Restored restored = restore_with(HotSetMode::kUse);
    EXPECT_EQ(restored.hot_set.role, replayed());
    EXPECT_EQ(scan(*restored.sandbox), seeded_scan());
    must(call(*restored.sandbox, Function::kTouch, {static_cast<std::uint64_t>(round)}));
  }
  // And a clone that wrote all of it leaves the next one alone.
  snapshot::Restored writer = restore_with(HotSetMode::kUse);
  must(call(*writer.sandbox, Function::kWrite, {0, kPages, 9}));
  snapshot::Restored reader = restore_with(HotSetMode::kUse);
  EXPECT_EQ(scan(*reader.sandbox), seeded_scan());
}

TEST_P(HotSetTest, ARecordingCloneIsAsGoodAsAnyOther) {
  snapshot::Restored restored = restore_with(HotSetMode::kRecord);
  EXPECT_EQ(scan(*restored.sandbox), seeded_scan());
  must(call(*restored.sandbox, Function::kWrite, {3, 5, 77}));
  capture(*restored.sandbox, "child");
  const auto before = scan(*restored.sandbox);
  const auto child = SnapshotTest::restore("child");
  EXPECT_EQ(scan(*child), before);
}

TEST_P(HotSetTest, WithoutOneTheFirstRestoreRecordsAndTheNextReplays) {
  if (GetParam() == Loader::kCopy) GTEST_SKIP() << "loader copy needs none";
  snapshot::Restored first = restore_with(HotSetMode::kUse);
  EXPECT_EQ(first.hot_set.role, HotSetRole::kRecording);
  health(*first.sandbox);
  must(snapshot::save_hot_set(*first.sandbox));
  EXPECT_EQ(restore_with(HotSetMode::kUse).hot_set.role, HotSetRole::kReplayed);
  EXPECT_EQ(restore_with(HotSetMode::kOff).hot_set.role, HotSetRole::kOff);
}

TEST_P(HotSetTest, EveryFlippedBitOfItIsRefusedAndOffStillRestores) {
  if (GetParam() == Loader::kCopy) GTEST_SKIP() << "loader copy needs none";
  record([](Sandbox& sandbox) { health(sandbox); });
  const std::string path = file("kv", snapshot::kHotSetFile);
  const std::vector<std::byte> good = read_file(path);
  std::filesystem::permissions(path, std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  for (std::uint64_t bit = 0; bit < good.size() * 8; bit += 7) {
    flip_bit(path, bit);
    const snapshot::RestoreOptions options = {.loader = GetParam(), .hot_set = HotSetMode::kUse};
    const Error error = must_fail(snapshot::restore(kvm(), store(), named("kv"), options));
    EXPECT_TRUE(error.code == Code::kCorrupt || error.code == Code::kUnsupported) << bit;
    EXPECT_TRUE(contains(error.context, "hotset")) << error.context;
    flip_bit(path, bit);
  }
  flip_bit(path, 100 * 8);
  EXPECT_EQ(must_fail(snapshot::verify(store(), named("kv"), snapshot::Depth::kHeads)).code,
            Code::kCorrupt);
  health(*restore_with(HotSetMode::kOff).sandbox);
}

TEST_P(HotSetTest, OneOfAnotherMemoryIsRefused) {
  if (GetParam() == Loader::kCopy) GTEST_SKIP() << "loader copy needs none";
  record([](Sandbox& sandbox) { health(sandbox); });
  auto other = boot_echo();
  capture(*other, "echo");
  std::filesystem::copy_file(file("kv", snapshot::kHotSetFile),
                             file("echo", snapshot::kHotSetFile));
  const snapshot::RestoreOptions options = {.loader = GetParam(), .hot_set = HotSetMode::kUse};
  const Error error = must_fail(snapshot::restore(kvm(), store(), named("echo"), options));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "another memory")) << error.context;
}

TEST_P(HotSetTest, HitsMissesAndWasteAreTold) {
  record([](Sandbox& sandbox) { must(call(sandbox, Function::kTouch, {0, 32, 64, 96})); });
  snapshot::Restored restored = restore_with(HotSetMode::kUse);
  must(call(*restored.sandbox, Function::kTouch, {0, 32, 256}));
  const auto score = must(snapshot::score_hot_set(restored.hot_set.set, *restored.sandbox));
  if (GetParam() == Loader::kCopy) {
    EXPECT_EQ(score.hits + score.misses + score.waste, 0) << "all of it is there in any case";
    return;
  }
  EXPECT_GE(score.hits, 2);
  EXPECT_EQ(score.waste, 2);
  EXPECT_EQ(score.misses, 1);
}

INSTANTIATE_TEST_SUITE_P(EveryLoader, HotSetTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

// What comes in ahead of time is not asked for again by a fault: it has come before the guest runs
// here, so any fault is for a page that the replay left out.
TEST_F(SnapshotTest, AReplayUnderUffdLeavesNoFaultsForWhatWasHot) {
  if (!snapshot::uffd_usable()) GTEST_SKIP() << "needs userfaultfd";
  constexpr std::uint64_t kUnits = kPages * snapshot::kPageBytes / kUnitBytes;
  auto booted = boot_kv();
  capture(*booted, "kv");
  const auto faults_of = [&](HotSetMode mode, std::uint64_t ahead) {
    const snapshot::RestoreOptions options = {.loader = Loader::kUffd, .hot_set = mode};
    snapshot::Restored restored = must(snapshot::restore(kvm(), store(), named("kv"), options));
    const uffd::FaultServer& server = *restored.sandbox->pager().server();
    const auto missing = [&] {
      const uffd::FaultCounts counts = server.counts();
      return counts.units_filled < counts.prefetched;
    };
    while (missing()) ::poll(nullptr, 0, 1);  // or the test's own deadline
    const uffd::FaultCounts before = server.counts();
    EXPECT_GE(before.prefetched, ahead);
    EXPECT_EQ(before.prefetched > 0, ahead > 0);
    EXPECT_EQ(scan(*restored.sandbox), seeded_scan());
    const std::uint64_t faults = server.counts().faults - before.faults;
    if (mode == HotSetMode::kRecord) must(snapshot::save_hot_set(*restored.sandbox));
    return faults;
  };
  EXPECT_GE(faults_of(HotSetMode::kRecord, 0), kPages);
  EXPECT_GE(faults_of(HotSetMode::kOff, 0), kUnits);
  EXPECT_EQ(faults_of(HotSetMode::kUse, kUnits), 0U);
}

// Which pages of the working set a clone has to itself.
std::set<std::uint64_t> own_pages_of(const Sandbox& sandbox) {
  std::set<std::uint64_t> pages;
  for (const auto& region : sandbox.machine().memory().regions()) {
    for (const snapshot::PageRange& run : must(snapshot::own_pages(region))) {
      for (std::uint64_t i = 0; i < run.count; ++i) {
        pages.insert(region.guest_base / snapshot::kPageBytes + run.first + i);
      }
    }
  }
  return pages;
}

// The guest has touched nothing of its working set when its pages are looked at.
TEST_F(SnapshotTest, WhatWillBeWrittenIsPopulatedBehindThePagerAndNothingElse) {
  if (!snapshot::uffd_usable()) GTEST_SKIP() << "needs userfaultfd";
  auto booted = boot_kv();
  capture(*booted, "kv");
  const auto restore_with = [&](HotSetMode mode) {
    const snapshot::RestoreOptions options = {.loader = Loader::kUffd, .hot_set = mode};
    return must(snapshot::restore(kvm(), store(), named("kv"), options));
  };
  constexpr std::uint64_t kWritten = 100, kScanned = 300;
  {
    snapshot::Restored recording = restore_with(HotSetMode::kRecord);
    must(call(*recording.sandbox, Function::kWrite, {0, kWritten, 5}));
    must(call(*recording.sandbox, Function::kScan, {kScanned, 50}));
    must(snapshot::save_hot_set(*recording.sandbox));
  }
  snapshot::Restored restored = restore_with(HotSetMode::kUse);
  const std::uint64_t first =
      restored.sandbox->facts().guest.working_set_base() / snapshot::kPageBytes;
  std::set<std::uint64_t> own;
  const auto has = [&](std::uint64_t page) { return own.contains(first + page); };
  for (bool all = false; !all; ::poll(nullptr, 0, 1)) {  // or the test's own deadline
    own = own_pages_of(*restored.sandbox);
    all = true;
    for (std::uint64_t page = 0; page < kWritten; ++page) all = all && has(page);
  }
  for (std::uint64_t page = kWritten; page < kPages; ++page) EXPECT_FALSE(has(page)) << page;
  const auto score = must(snapshot::score_hot_set(restored.hot_set.set, *restored.sandbox));
  EXPECT_GT(score.waste, 0U) << "populated is not used";
  EXPECT_EQ(scan(*restored.sandbox), seeded_scan());
  // One that ends while its pages come disturbs nobody.
  for (int i = 0; i < 20; ++i) restore_with(HotSetMode::kUse);
  EXPECT_EQ(scan(*restore_with(HotSetMode::kUse).sandbox), seeded_scan());
}

}  // namespace
}  // namespace volt::test
