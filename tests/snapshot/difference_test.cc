// Snapshots stored as differences: they hold what a full capture holds, store what changed, and
// depend on no other snapshot's life.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "snapshot/prune.h"
#include "snapshot/usage.h"
#include "snapshot/working_set.h"
#include "tests/snapshot/difference.h"

namespace volt::test {
namespace {

constexpr std::uint64_t kUnused = kSmallRam - kMiB;

// How a parent is stored, by which loader its clone is restored, and how the difference is stored.
struct Way {
  Loader loader;
  Storage parent;
  Storage child;
};

std::string way_title(const testing::TestParamInfo<Way>& info) {
  return std::string(snapshot::loader_name(info.param.loader)) + "_" +
         snapshot::storage_name(info.param.parent) + "_" + snapshot::storage_name(info.param.child);
}

class DifferenceTest : public SnapshotTest, public testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (GetParam().loader == Loader::kUffd && !snapshot::uffd_usable()) {
      VOLT_HOST_UNABLE(snapshot::uffd_usable().error());
    }
    first_ = must(snapshot::capture(kvm(), *boot_kv(), store(), named("first"),
                                    {.storage = GetParam().parent}));
    clone_ = restore("first", GetParam().loader);
  }
  Sandbox& clone() { return *clone_; }
  const Captured& first() const { return first_; }
  std::uint64_t units() const { return first_.data_bytes / kUnitBytes; }
  // Pages that were read are the parent's, and are not looked at.
  bool compares_all() const { return GetParam().loader == Loader::kCopy; }

  void poke(std::uint64_t address, std::uint64_t bytes, std::byte value) {
    must(clone().machine().memory().write(address, std::vector<std::byte>(bytes, value)));
  }
  Result<Captured> try_diff(Sandbox& sandbox, std::string_view name) {
    return snapshot::capture(kvm(), sandbox, store(), named(name),
                             {.mode = CaptureMode::kDiff, .storage = GetParam().child});
  }
  Captured diff() { return must(try_diff(clone(), "diff")); }

  // The same clone captured in full holds the same, unit by unit and byte by byte.
  void expect_like_full(std::string_view name) {
    const Captured full = must(snapshot::capture(kvm(), clone(), store(), named("full"),
                                                 {.if_taken = Store::IfTaken::kReplace}));
    const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named(name)));
    EXPECT_EQ(formats::to_hex(opened.index().digest()), formats::to_hex(full.memory_digest));
    EXPECT_EQ(read_file(file(name, snapshot::kIndexFile)), read_file(file("full", "index")));
    expect_ok(snapshot::verify(store(), named(name), Depth::kDeep));
    EXPECT_EQ(memory_of(*restore(name, Loader::kCopy)), memory_of(clone()));
    EXPECT_EQ(must(snapshot::working_set_sum(opened)), scan(*restore("full", Loader::kCopy)));
    EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
  }

 private:
  Captured first_;
  std::unique_ptr<Sandbox> clone_;
};

INSTANTIATE_TEST_SUITE_P(EveryWay, DifferenceTest,
                         testing::Values(Way{Loader::kMap, Storage::kRaw, Storage::kRaw},
                                         Way{Loader::kMap, Storage::kRaw, Storage::kPacked},
                                         Way{Loader::kUffd, Storage::kRaw, Storage::kRaw},
                                         Way{Loader::kUffd, Storage::kPacked, Storage::kRaw},
                                         Way{Loader::kUffd, Storage::kPacked, Storage::kPacked},
                                         Way{Loader::kCopy, Storage::kRaw, Storage::kRaw},
                                         Way{Loader::kCopy, Storage::kPacked, Storage::kPacked}),
                         way_title);

TEST_P(DifferenceTest, OfACloneThatHasNotRunNothingIsWritten) {
  const Captured child = diff();
  EXPECT_EQ(child.mode, CaptureMode::kDiff);
  EXPECT_EQ(child.full_because, "");
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  EXPECT_EQ(child.units.changed, 0U);
  EXPECT_EQ(compares_all() ? child.units.equal : child.units.taken_over, units());
  EXPECT_LE(child.stored_bytes, GetParam().child == Storage::kRaw ? 0 : kUnitBytes);
  expect_like_full("diff");
}

TEST_P(DifferenceTest, AfterACallItHoldsWhatAFullCaptureHolds) {
  must(call(clone(), Function::kPut, {5, 99}));
  must(call(clone(), Function::kWrite, {3, 5, kSeed + 1}));
  const Captured child = diff();
  EXPECT_GT(child.units.changed, 0U);
  EXPECT_LT(child.units.changed, units() / 2);
  EXPECT_EQ(child.units.changed + child.units.equal + child.units.taken_over, units());
  expect_like_full("diff");
}

TEST_P(DifferenceTest, ItStoresAboutWhatWasWritten) {
  for (std::uint64_t i = 0; i < 8; ++i) poke(kData + 2 * i * kUnitBytes, 1, std::byte{77});
  const Captured child = diff();
  EXPECT_EQ(child.units.changed, 8U);
  EXPECT_EQ(child.units.equal, compares_all() ? units() - 8 : 0);
  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("diff")));
  if (GetParam().child == Storage::kRaw) {
    EXPECT_EQ(child.stored_bytes, 8 * kUnitBytes);
    struct stat info = {};
    const std::string layer = "layer-" + formats::to_hex(child.digest);
    ASSERT_EQ(::stat(file("diff", layer.c_str()).c_str(), &info), 0);
    EXPECT_LE(static_cast<std::uint64_t>(info.st_blocks) * 512, 8 * kUnitBytes + 8 * 4096);
  } else {
    EXPECT_LE(child.stored_bytes, 9 * kUnitBytes);
  }
  expect_like_full("diff");
}

TEST_P(DifferenceTest, PagesThatHoldWhatTheParentHasAreNoDifference) {
  std::vector<std::byte> page(4096);
  must(clone().machine().memory().read(kData, page));
  must(clone().machine().memory().write(kData, page));
  // Written, and written back.
  std::vector<std::byte> unit(kUnitBytes);
  must(clone().machine().memory().read(kData + 4 * kUnitBytes, unit));
  poke(kData + 4 * kUnitBytes, kUnitBytes, std::byte{1});
  must(clone().machine().memory().write(kData + 4 * kUnitBytes, unit));
  const auto populated = must(clone().machine().memory().at(kData + 8 * kUnitBytes, kUnitBytes));
  ASSERT_EQ(::madvise(populated.data(), kUnitBytes, MADV_POPULATE_WRITE), 0);
  const Captured child = diff();
  EXPECT_EQ(child.units.changed, 0U);
  EXPECT_EQ(child.units.equal, compares_all() ? units() : 3);
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  expect_like_full("diff");
}

TEST_P(DifferenceTest, ZerosWrittenOverDataAndDataWhereThereWasNoneAreChanges) {
  poke(kData, kUnitBytes, std::byte{0});
  poke(kData + 2 * kUnitBytes, 4096, std::byte{0});
  poke(kUnused + 5, 1, std::byte{9});
  const Captured child = diff();
  EXPECT_EQ(child.units.changed, 3U);
  EXPECT_EQ(child.data_bytes, first().data_bytes);  // one less, one more
  expect_like_full("diff");
}

TEST_P(DifferenceTest, PagesThatWereSwappedOutCountToo) {
  const auto host = must(clone().machine().memory().at(kData, kMiB));
  for (std::uint64_t at = 0; at < kMiB; at += 3 * 4096) poke(kData + at, 1, std::byte{9});
  ::madvise(host.data(), kMiB, MADV_PAGEOUT);  // without swap they just stay
  diff();
  expect_like_full("diff");
}

TEST_P(DifferenceTest, NothingIsFetchedIntoTheClone) {
  must(call(clone(), Function::kPut, {5, 99}));
  const uffd::FaultServer* const pager = clone().pager().server();
  const uffd::FaultCounts before = pager == nullptr ? uffd::FaultCounts{} : pager->counts();
  diff();
  if (pager == nullptr) return;
  const uffd::FaultCounts after = pager->counts();
  EXPECT_EQ(after.faults, before.faults);
  EXPECT_EQ(after.units_filled, before.units_filled);
  EXPECT_LT(before.units_filled, units()) << "there was nothing left to fetch";
}

TEST_P(DifferenceTest, WhatLiesInTheParentAndWasNotTouchedIsNotRead) {
  if (compares_all() || GetParam().parent == Storage::kPacked) return;
  poke(kData, 1, std::byte{1});
  const std::uint64_t elsewhere = kData + 4 * kUnitBytes;
  flip_bit(file("first", kMemoryFile), elsewhere * 8);
  diff();
  // The unit has its parent's sum, and so the damage is found wherever it is looked at.
  const Error error = must_fail(snapshot::verify(store(), named("diff"), Depth::kDeep));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "layer-" + formats::to_hex(first().digest) + ": unit " +
                                          std::to_string(elsewhere / kUnitBytes)))
      << error.context;
}

TEST_P(DifferenceTest, DamageUnderAPageOfTheClonesGetsNoValidSum) {
  if (GetParam().loader != Loader::kMap) return;
  flip_bit(file("first", kMemoryFile), (kData + 100) * 8);
  flip_bit(file("first", kMemoryFile), (kUnused + 100) * 8);
  const std::vector<std::string> before = entries_of(store());
  for (const auto& [address, why] :
       {std::pair{kData, "parent: memory: unit "}, std::pair{kUnused, "not zero"}}) {
    poke(address, 1, std::byte{1});
    const Error error = must_fail(try_diff(clone(), "diff"));
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, why)) << error.context;
    EXPECT_EQ(entries_of(store()), before);
    flip_bit(file("first", kMemoryFile), (address + 100) * 8);
    // The page was copied with the damage in it: as far as anybody can tell it was written.
  }
}

TEST_P(DifferenceTest, AChainIsAsGoodAsOneWhoeverIsRemoved) {
  std::unique_ptr<Sandbox> link = restore("first", GetParam().loader);
  std::vector<std::string> names = {"first"};
  for (std::uint64_t i = 0; i < 10; ++i) {
    must(call(*link, Function::kPut, {i, 1000 + i}));
    must(link->machine().memory().write(kUnused + i * kUnitBytes,
                                        std::vector<std::byte>(3, std::byte{7})));
    names.push_back("link:" + std::to_string(i));
    EXPECT_EQ(must(try_diff(*link, names.back())).mode, CaptureMode::kDiff);
    const std::vector<std::byte> memory = memory_of(*link);
    const bool lazy = i % 2 == 0 && snapshot::uffd_usable().has_value();
    link = restore(names.back(), lazy ? Loader::kUffd : Loader::kCopy);
    ASSERT_EQ(memory_of(*link), memory);
  }
  const std::vector<std::byte> memory = memory_of(*link);
  for (const std::string& name : names) {
    expect_ok(snapshot::verify(store(), named(name), Depth::kDeep));
  }
  const std::string last = names.back();
  // From the middle, then the oldest, then the rest.
  for (const std::size_t i : {5U, 0U, 1U, 9U, 2U, 8U, 3U, 7U, 4U, 6U}) {
    must(store().remove(named(names[i])));
    for (const auto& listed : must(store().list())) {
      expect_ok(snapshot::verify(store(), listed.reference, Depth::kDeep));
    }
  }
  must(snapshot::prune(store(), {.dead_percent = 1}));
  const std::unique_ptr<Sandbox> restored = restore(last, Loader::kCopy);
  EXPECT_EQ(memory_of(*restored), memory);
  for (std::uint64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(reply_as<std::uint64_t>(must(call(*restored, Function::kGet, {i}))), 1000 + i);
  }
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_P(DifferenceTest, CompactingKeepsTheDigestAndMakesMapWork) {
  must(call(clone(), Function::kPut, {5, 99}));
  const Captured child = diff();
  const Error refused = must_fail(try_restore("diff", Loader::kMap));
  EXPECT_EQ(refused.code, Code::kConflict);
  EXPECT_TRUE(contains(refused.context, "layers")) << refused.context;
  const std::unique_ptr<Sandbox> running = restore("diff", Loader::kCopy);
  const std::vector<std::byte> memory = memory_of(*running);
  // The clone's clone, captured while its parent is stored anew.
  must(snapshot::compact(store(), named("diff"), Storage::kRaw, {}));
  EXPECT_TRUE(std::filesystem::exists(file("diff", kMemoryFile)));
  EXPECT_EQ(must(try_diff(*running, "grandchild")).mode, CaptureMode::kDiff);
  expect_ok(snapshot::verify(store(), named("grandchild"), Depth::kDeep));
  must(store().remove(named("first")));

  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("diff")));
  EXPECT_EQ(opened.digest(), child.digest);
  EXPECT_EQ(opened.index().digest(), child.memory_digest);
  EXPECT_TRUE(opened.is_raw());
  EXPECT_EQ(memory_of(*restore("diff", Loader::kMap)), memory);
  expect_ok(snapshot::verify(store(), named("diff"), Depth::kDeep));
  EXPECT_FALSE(must(snapshot::compact(store(), named("diff"), Storage::kRaw, {})).changed);

  // And folded into packs: that of the grandchild has layers still.
  for (const char* name : {"diff", "grandchild"}) {
    must(snapshot::compact(store(), named(name), Storage::kPacked, {}));
    const OpenedSnapshot packed = must(OpenedSnapshot::open(store(), named(name)));
    for (const auto& container : packed.units().containers()) {
      EXPECT_EQ(container.kind, formats::Container::Kind::kPack);
    }
    EXPECT_EQ(memory_of(*restore(name, Loader::kCopy)), memory);
    expect_ok(snapshot::verify(store(), named(name), Depth::kDeep));
    EXPECT_FALSE(must(snapshot::compact(store(), named(name), Storage::kPacked, {})).changed);
  }
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_P(DifferenceTest, WithoutItsParentsFilesTheCaptureIsFullAndSaysSo) {
  must(call(clone(), Function::kPut, {5, 99}));
  must(store().remove(named("first")));
  const Captured child = diff();
  const bool gone = GetParam().parent == Storage::kRaw;  // nobody else has the file
  if (gone) {
    EXPECT_EQ(child.mode, CaptureMode::kFull);
    EXPECT_TRUE(contains(child.full_because, "removed")) << child.full_because;
  }
  expect_like_full("diff");
}

TEST_P(DifferenceTest, AParentThatIsStoredAnewMeanwhileIsStillTheParent) {
  must(call(clone(), Function::kPut, {5, 99}));
  must(snapshot::compact(store(), named("first"),
                         GetParam().parent == Storage::kRaw ? Storage::kPacked : Storage::kRaw,
                         {}));
  must(snapshot::prune(store(), {}));
  EXPECT_EQ(diff().mode, CaptureMode::kDiff);
  expect_like_full("diff");
}

TEST_P(DifferenceTest, AnotherUnitSizeOrNoParentIsRefused) {
  snapshot::CaptureOptions options = {.mode = CaptureMode::kDiff, .unit_bytes = 4096};
  EXPECT_EQ(must_fail(snapshot::capture(kvm(), clone(), store(), named("diff"), options)).code,
            Code::kInvalid);
  options.unit_bytes.reset();
  EXPECT_EQ(must_fail(snapshot::capture(kvm(), *boot_kv(), store(), named("diff"), options)).code,
            Code::kInvalid);
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_P(DifferenceTest, AFullCaptureOfItsCloneSumsTheWorkingSetAgain) {
  must(call(clone(), Function::kWrite, {0, kPages, kSeed + 1}));
  diff();
  const std::unique_ptr<Sandbox> child =
      restore("diff", GetParam().loader == Loader::kUffd ? Loader::kUffd : Loader::kCopy);
  EXPECT_EQ(child->facts().guest.working_set_checksum(), 0U);
  EXPECT_EQ(child->facts().guest.health_checksum(), seeded_scan(kSeed + 1, 1));
  EXPECT_EQ(must(call(*child, Function::kHealth)).checksum, seeded_scan(kSeed + 1, 1));
  capture(*child, "again");
  EXPECT_EQ(restore("again")->facts().guest.working_set_checksum(), seeded_scan(kSeed + 1));
}

}  // namespace
}  // namespace volt::test
