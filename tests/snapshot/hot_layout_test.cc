// The hot set's units lie at the front of a pack, in the order of first touch, and nothing else of
// a snapshot changes by that.
#include "snapshot/hot_layout.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>

#include "snapshot/archive.h"
#include "snapshot/hot_set.h"
#include "snapshot/prune.h"
#include "snapshot/snapshot_source.h"
#include "snapshot/usage.h"
#include "tests/snapshot/hot_order.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using snapshot::OpenedSnapshot;
using snapshot::Storage;
using snapshot::StorageChange;

class HotLayoutTest : public SnapshotTest {
 protected:
  OpenedSnapshot open(std::string_view name) const {
    return must(OpenedSnapshot::open(store(), named(name)));
  }
  snapshot::Captured capture_packed(Sandbox& sandbox, std::string_view name) const {
    return must(
        snapshot::capture(kvm(), sandbox, store(), named(name), {.storage = Storage::kPacked}));
  }
  StorageChange relayout(std::string_view name) const {
    return must(snapshot::relayout(store(), named(name), {}));
  }
  // A third of its entries, in no order.
  std::vector<std::uint64_t> scrambled(std::string_view name, std::uint32_t seed) const {
    std::vector<std::uint64_t> entries(open(name).index().entry_count());
    std::ranges::generate(entries, [i = std::uint64_t{0}]() mutable { return i++; });
    std::ranges::shuffle(entries, std::mt19937(seed));
    entries.resize(entries.size() / 3);
    return entries;
  }

  // The pack begins with these units, in this order and without a gap; any other comes after.
  void expect_first(std::string_view name, const std::vector<std::uint64_t>& hot) const {
    const OpenedSnapshot opened = open(name);
    const std::uint32_t pack = must(opened.units().at(hot.at(0))).container;
    std::uint64_t end = formats::kPackHeadBytes;
    for (const std::uint64_t i : hot) {
      const formats::StoredUnit unit = must(opened.units().at(i));
      EXPECT_EQ(unit.container, pack) << i;
      EXPECT_EQ(unit.offset, end) << i;
      end = unit.offset + unit.stored_bytes;
    }
    std::size_t before = 0;
    for (std::uint64_t i = 0; i < opened.units().entry_count(); ++i) {
      const formats::StoredUnit unit = must(opened.units().at(i));
      before += unit.container == pack && unit.offset < end;
    }
    EXPECT_EQ(before, hot.size()) << "units that are not hot lie among those that are";
  }
  void expect_whole(std::string_view name, const std::vector<std::byte>& memory) const {
    expect_ok(verify_everything(store()));
    EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
    EXPECT_EQ(memory_of(*restore(name, Loader::kCopy)), memory);
  }
};

TEST_F(HotLayoutTest, PackPutsTheHotUnitsFirstAndTheSnapshotStaysWhatItIs) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> memory = memory_of(*guest);
  for (const std::uint64_t unit : {std::uint64_t{4096}, std::uint64_t{65536}}) {
    SCOPED_TRACE(unit);
    must(snapshot::capture(kvm(), *guest, store(), named("kv"), {.unit_bytes = unit}));
    const std::vector<std::uint64_t> hot = scrambled("kv", 1);
    ASSERT_GT(hot.size(), 8U);
    keep_hot_order(store(), "kv", hot);
    const std::string digest = must(store().digest_of(named("kv")));
    const StorageChange change = pack(store(), "kv");
    EXPECT_EQ(change.hot_units, hot.size());
    EXPECT_EQ(change.hot_set_unusable, "");
    expect_first("kv", hot);
    EXPECT_EQ(must(store().digest_of(named("kv"))), digest);
    expect_whole("kv", memory);
    must(store().remove(named("kv")));
  }
}

TEST_F(HotLayoutTest, PagesOfOneUnitAndPagesOfZerosCountOnce) {
  const std::vector<formats::IndexEntry> entries = {{.unit = 3, .sum = {}, .place = 0},
                                                    {.unit = 5, .sum = {}, .place = 0}};
  const std::uint64_t per_unit = kUnitBytes / formats::kHotPageBytes;
  formats::HotSet set = {};
  for (const std::uint64_t page : {per_unit * 5 + 2, per_unit * 4, per_unit * 3 + 15, per_unit * 5,
                                   per_unit * 3, std::uint64_t{0}, per_unit * 6}) {
    set.pages.push_back({page, false});
  }
  EXPECT_EQ(snapshot::hot_entries(set, entries, kUnitBytes), (std::vector<std::uint64_t>{1, 0}));
}

// A restore refuses one that is damaged; packing changes nothing of a snapshot, so it goes on.
TEST_F(HotLayoutTest, AHotSetThatCannotBeUsedStopsNoPackingAndIsTold) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> memory = memory_of(*guest);
  capture(*guest, "kv");
  keep_hot_order(store(), "kv", scrambled("kv", 1));
  const std::string path = file("kv", snapshot::kHotSetFile);
  flip_bit(path, 100 * 8);
  const StorageChange damaged = pack(store(), "kv");
  EXPECT_TRUE(contains(damaged.hot_set_unusable, "hotset")) << damaged.hot_set_unusable;
  EXPECT_EQ(damaged.hot_units, 0U);
  EXPECT_EQ(memory_of(*restore("kv", Loader::kCopy)), memory);
  EXPECT_EQ(must_fail(snapshot::relayout(store(), named("kv"), {})).code, Code::kCorrupt);
  unpack(store(), "kv");

  const std::unique_ptr<Sandbox> other = boot_echo();
  capture(*other, "echo");
  keep_hot_order(store(), "echo", {0});
  std::filesystem::copy_file(file("echo", snapshot::kHotSetFile), path,
                             std::filesystem::copy_options::overwrite_existing);
  const StorageChange foreign = pack(store(), "kv");
  EXPECT_TRUE(contains(foreign.hot_set_unusable, "another memory")) << foreign.hot_set_unusable;
  std::filesystem::remove(path);
  expect_whole("kv", memory);
}

TEST_F(HotLayoutTest, WhatIsPackedAlreadyIsLaidOutAnew) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> memory = memory_of(*guest);
  const std::string digest = formats::to_hex(capture_packed(*guest, "kv").digest);
  const std::unique_ptr<Sandbox> clone = restore("kv", Loader::kAuto);
  EXPECT_EQ(must_fail(snapshot::relayout(store(), named("kv"), {})).code, Code::kConflict);
  for (const std::uint32_t seed : {1U, 2U}) {
    const std::vector<std::string> old = packs_of(store());
    const std::vector<std::uint64_t> hot = scrambled("kv", seed);
    keep_hot_order(store(), "kv", hot);
    EXPECT_FALSE(pack(store(), "kv").changed);
    const StorageChange change = relayout("kv");
    EXPECT_TRUE(change.changed);
    EXPECT_EQ(change.hot_units, hot.size());
    expect_first("kv", hot);
    ASSERT_EQ(packs_of(store()).size(), 1U) << "the old pack stayed";
    EXPECT_NE(packs_of(store()), old);
    EXPECT_FALSE(relayout("kv").changed);
    EXPECT_EQ(must(store().digest_of(named("kv"))), digest);
    expect_whole("kv", memory);
  }
  EXPECT_EQ(scan(*clone), seeded_scan()) << "a clone that has the old pack open";
}

// Counts answers.
class Answers final : public uffd::UnitSink {
 public:
  void filled(std::uint64_t, std::span<const std::byte>) override { count(); }
  void failed(std::uint64_t, Error why) override {
    ADD_FAILURE() << why.context;
    count();
  }
  void await(std::size_t answers) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_ >= answers; });
  }

 private:
  void count() {
    const std::lock_guard lock(mutex_);
    ++answers_;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t answers_ = 0;
};

// What all of it is for.
TEST_F(HotLayoutTest, AColdReplayTakesFewReadsWhereTheHotUnitsLieTogether) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, random_bytes(4 * kMiB, 1));
  capture_packed(*guest, "kv");
  keep_hot_order(store(), "kv", scrambled("kv", 6));
  // Without a page of it cached; nothing where the file system keeps what it was told to drop.
  const auto cold_reads = [&]() -> std::optional<std::uint64_t> {
    const auto opened = std::make_shared<const OpenedSnapshot>(open("kv"));
    const Fd& pack = opened->containers().at(0).file;
    must(sync(pack, "pack"));
    if (::posix_fadvise(pack.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) return std::nullopt;
    const auto units = snapshot::hot_units(*must(snapshot::read_hot_set(*opened)), *opened);
    std::size_t asked = 0;
    for (const uffd::UnitRange& range : units) asked += range.count;
    Answers answers;
    snapshot::SnapshotSource source(opened);
    source.request(units, uffd::Priority::kPrefetch, answers);
    answers.await(asked);
    const std::uint64_t reads = source.counts().cold_reads;
    return reads == 0 ? std::nullopt : std::optional(reads);
  };
  const auto scattered = cold_reads();
  EXPECT_TRUE(relayout("kv").changed);
  const auto together = cold_reads();
  if (!scattered || !together) GTEST_SKIP() << "this file system keeps what it was told to drop";
  RecordProperty("scattered", std::to_string(*scattered));
  RecordProperty("together", std::to_string(*together));
  EXPECT_LT(*together * 3, *scattered);
}

TEST_F(HotLayoutTest, WhatOtherSnapshotsShareStaysWhereItIs) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, random_bytes(4 * kUnitBytes, 1));
  capture_packed(*guest, "base");
  write_memory(*guest, kSpare, random_bytes(4 * kUnitBytes, 2));
  const std::vector<std::byte> memory = memory_of(*guest);
  capture_packed(*guest, "child");
  const auto usage = [&](std::string_view name) {
    return must(must(snapshot::count_usage(store())).of(open(name)));
  };
  const snapshot::Usage before = usage("child");
  ASSERT_GT(before.shared_bytes, before.unique_bytes());
  for (const char* name : {"base", "child"}) {
    std::vector<std::uint64_t> all(open(name).index().entry_count());
    std::ranges::generate(all, [i = all.size()]() mutable { return --i; });
    keep_hot_order(store(), name, all);
  }
  EXPECT_FALSE(relayout("base").changed) << "all it has lies in a pack that child uses too";
  const StorageChange change = relayout("child");
  EXPECT_TRUE(change.changed);
  EXPECT_GE(change.hot_units, 4U);
  EXPECT_LT(change.hot_units, change.units);
  EXPECT_FALSE(relayout("child").changed);
  const snapshot::Usage after = usage("child");
  EXPECT_EQ(after.shared_bytes, before.shared_bytes);
  EXPECT_EQ(after.stored_bytes, before.stored_bytes);
  EXPECT_EQ(packs_of(store()).size(), 2U);
  expect_whole("child", memory);
  must(store().remove(named("child")));
  EXPECT_TRUE(relayout("base").changed);
  expect_ok(verify_everything(store()));
}

TEST_F(HotLayoutTest, ADifferenceIsFoldedIntoPacksWithTheHotUnitsFirst) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture(*guest, "base");
  const std::unique_ptr<Sandbox> clone = restore("base", Loader::kCopy);
  must(call(*clone, Function::kPut, {5, 99}));
  const std::vector<std::byte> memory = memory_of(*clone);
  must(snapshot::capture(kvm(), *clone, store(), named("child"),
                         {.mode = snapshot::CaptureMode::kDiff}));
  const std::vector<std::uint64_t> hot = scrambled("child", 3);
  keep_hot_order(store(), "child", hot);
  must(snapshot::compact(store(), named("child"), Storage::kPacked, {}));
  expect_first("child", hot);
  expect_whole("child", memory);
}

TEST_F(HotLayoutTest, APackThatPruneWritesAnewHasTheHotUnitsFirst) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, random_bytes(3 * kMiB, 1));
  capture_packed(*guest, "old");
  write_memory(*guest, kSpare, std::vector<std::byte>(3 * kMiB));
  const std::vector<std::byte> memory = memory_of(*guest);
  capture_packed(*guest, "young");
  must(store().remove(named("old")));
  const std::vector<std::uint64_t> hot = scrambled("young", 4);
  keep_hot_order(store(), "young", hot);
  must(snapshot::prune(store(), {.dead_percent = 1}));
  // What young alone had was in a pack of its own, which is alive, and stays.
  const OpenedSnapshot opened = open("young");
  std::uint64_t last = 0;
  std::size_t moved = 0;
  const std::uint32_t pack = must(opened.units().at(hot.at(0))).container;
  for (const std::uint64_t i : hot) {
    const formats::StoredUnit unit = must(opened.units().at(i));
    if (unit.container != pack) continue;
    EXPECT_GT(unit.offset, last);
    last = unit.offset;
    ++moved;
  }
  EXPECT_GT(moved, hot.size() / 2);
  expect_whole("young", memory);
}

TEST_F(HotLayoutTest, AnArchiveThatIsLoadedPackedHasTheHotUnitsFirst) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> memory = memory_of(*guest);
  capture(*guest, "kv");
  const std::vector<std::uint64_t> hot = scrambled("kv", 5);
  keep_hot_order(store(), "kv", hot);
  const TempDir dir;
  const auto save = [&](const char* name) {
    const std::string path = dir.path() + "/" + name;
    const Fd to = must(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT, 0600));
    must(snapshot::save(store(), named("kv"), to, {}));
    return must(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  };
  const Fd good = save("good");
  const std::unique_ptr<Sandbox> other = boot_echo();
  capture(*other, "echo");
  keep_hot_order(store(), "echo", {0});
  std::filesystem::copy_file(file("echo", snapshot::kHotSetFile), file("kv", snapshot::kHotSetFile),
                             std::filesystem::copy_options::overwrite_existing);
  const Fd mixed = save("mixed");
  must(store().remove(named("kv")));

  const snapshot::LoadOptions packed = {.storage = Storage::kPacked};
  const Error error = must_fail(snapshot::load(store(), named("kv"), mixed, packed));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "another memory")) << error.context;
  must(snapshot::load(store(), named("kv"), good, packed));
  expect_first("kv", hot);
  expect_whole("kv", memory);
}

}  // namespace
}  // namespace volt::test
