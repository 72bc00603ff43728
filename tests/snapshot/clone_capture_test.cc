// Captures of clones: what they fetch, what they take over, what they find changed, and that damage
// of the parent never gets valid sums.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>

#include "snapshot/private_pages.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::Behind;
using snapshot::Captured;
using snapshot::Depth;
using snapshot::kIndexFile;
using snapshot::kMemoryFile;
using snapshot::kPageBytes;
using snapshot::OpenedSnapshot;
using snapshot::PageRange;

constexpr std::uint64_t kKiB = 1 << 10;
// The last MiB: a run of zeros that no file is mapped behind.
constexpr std::uint64_t kUnused = kSmallRam - kMiB;
// Within the working set.
constexpr std::uint64_t kData = 7 * kMiB;

// Under loaders that show the parent's pages, and under copy, which has all pages to itself.
class CloneCaptureTest : public EveryLoaderTest {
 protected:
  void SetUp() override {
    EveryLoaderTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    first_ = capture(*boot_kv(), "first");
    clone_ = restore("first");
  }
  Sandbox& clone() { return *clone_; }
  const Captured& first() const { return first_; }
  bool shows_parent() const { return GetParam() != Loader::kCopy; }

  Result<Captured> try_capture(snapshot::CaptureOptions options = {}) {
    return snapshot::capture(kvm(), clone(), store(), named("child"), options);
  }
  // The child is whole, and every byte of it is what the clone has.
  void expect_child_like_clone() {
    expect_ok(snapshot::verify(store(), named("child"), Depth::kDeep));
    const std::unique_ptr<Sandbox> child = restore("child");
    EXPECT_EQ(memory_of(*child), memory_of(clone()));
    EXPECT_EQ(scan(*child), child->facts().guest.working_set_checksum());
    EXPECT_EQ(must(call(*child, Function::kHealth)).checksum,
              child->facts().guest.health_checksum());
  }
  std::span<std::byte> host(std::uint64_t address, std::uint64_t bytes) {
    return must(clone().machine().memory().at(address, bytes));
  }
  void poke(std::uint64_t address, std::byte value) {
    must(clone().machine().memory().write(address, std::span(&value, 1)));
  }
  std::uint64_t present_pages() {
    std::uint64_t pages = 0;
    for (const PageRange& range :
         must(snapshot::private_pages(host(0, kSmallRam), Behind::kNothing))) {
      pages += range.count;
    }
    return pages;
  }
  std::uint64_t stored_units() const { return first_.stored_bytes / kUnitBytes; }

 private:
  Captured first_;
  std::unique_ptr<Sandbox> clone_;
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, CloneCaptureTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(CloneCaptureTest, NothingIsFetchedIntoTheClone) {
  must(call(clone(), Function::kPut, {5, 99}));
  const auto counts = [&] {
    const uffd::FaultServer* const pager = clone().pager().server();
    return pager == nullptr ? uffd::FaultCounts{} : pager->counts();
  };
  const uffd::FaultCounts before = counts();
  const std::uint64_t pages = present_pages();
  must(try_capture());
  EXPECT_EQ(present_pages(), pages);
  EXPECT_EQ(counts().faults, before.faults);
  EXPECT_EQ(counts().units_filled, before.units_filled);
  EXPECT_EQ(counts().woken_only, before.woken_only);
  if (GetParam() == Loader::kUffd) {
    EXPECT_LT(before.units_filled, stored_units()) << "there was nothing left to fetch";
  }
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, OfACloneThatHasNotRunEveryUnitIsTakenOver) {
  const Captured child = must(try_capture());
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  EXPECT_EQ(child.stored_bytes, first().stored_bytes);
  EXPECT_EQ(child.units.taken_over, shows_parent() ? stored_units() : 0);
  EXPECT_EQ(child.units.equal, 0U);
  EXPECT_EQ(child.units.changed, shows_parent() ? 0 : stored_units());
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, ACallChangesFewUnitsAndTheOthersAreTakenOver) {
  must(call(clone(), Function::kPut, {5, 99}));
  const Captured child = must(try_capture());
  EXPECT_NE(child.memory_digest, first().memory_digest);
  EXPECT_GT(child.units.changed, 0U);
  if (shows_parent()) {
    EXPECT_GT(child.units.taken_over, stored_units() / 2);
    EXPECT_LT(child.units.changed, stored_units() / 2);
  }
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, PagesPopulatedButNotWrittenAreEqualAndChangeNothing) {
  if (!shows_parent()) return;
  // Four units of data, and one where the parent has zeros but maps its file.
  ASSERT_EQ(::madvise(host(kData, 1).data(), 4 * kUnitBytes, MADV_POPULATE_WRITE), 0);
  ASSERT_EQ(::madvise(host(kUnused, 1).data(), kUnitBytes, MADV_POPULATE_WRITE), 0);
  const Captured child = must(try_capture());
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  EXPECT_EQ(child.units.changed, 0U);
  EXPECT_EQ(child.units.equal, 5U);
  EXPECT_EQ(child.units.taken_over, stored_units() - 4);
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, APageWrittenWithWhatItHeldChangesNothing) {
  std::vector<std::byte> page(kPageBytes);
  must(clone().machine().memory().read(kData, page));
  must(clone().machine().memory().write(kData, page));
  const Captured child = must(try_capture());
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  EXPECT_EQ(child.units.equal, shows_parent() ? 1U : 0U);
}

TEST_P(CloneCaptureTest, AUnitSetToZeroIsContentAndTheChildStoresNothingForIt) {
  must(clone().machine().memory().write(kData, std::vector<std::byte>(kUnitBytes)));
  const Captured child = must(try_capture());
  EXPECT_EQ(child.stored_bytes, first().stored_bytes - kUnitBytes);
  EXPECT_TRUE(child.units.changed == 1 || !shows_parent()) << child.units.changed;
  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("child")));
  EXPECT_FALSE(must(opened.index().find(kData / kUnitBytes)));
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, OnePageSetToZeroLeavesTheRestOfItsUnit) {
  must(clone().machine().memory().write(kData + kPageBytes, std::vector<std::byte>(kPageBytes)));
  const Captured child = must(try_capture());
  EXPECT_EQ(child.stored_bytes, first().stored_bytes);
  EXPECT_NE(child.memory_digest, first().memory_digest);
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, WhatIsWrittenWhereTheParentHasNothingIsKept) {
  poke(kUnused, std::byte{1});
  poke(kSmallRam - 1, std::byte{2});
  const Captured child = must(try_capture());
  EXPECT_EQ(child.stored_bytes, first().stored_bytes + 2 * kUnitBytes);
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, ReadingEverythingChangesNothing) {
  memory_of(clone());
  const Captured child = must(try_capture());
  EXPECT_EQ(child.memory_digest, first().memory_digest);
  EXPECT_EQ(child.stored_bytes, first().stored_bytes);
}

TEST_P(CloneCaptureTest, PagesThatWereSwappedOutAreKeptToo) {
  for (std::uint64_t at = kData; at < kData + kMiB; at += 3 * kPageBytes) poke(at, std::byte{9});
  ::madvise(host(kData, kMiB).data(), kMiB, MADV_PAGEOUT);  // without swap they just stay
  must(try_capture());
  expect_child_like_clone();
}

TEST_P(CloneCaptureTest, UnitsOfAnotherSizeThanTheParentsHoldTheSame) {
  must(call(clone(), Function::kPut, {5, 99}));
  poke(kUnused + 5, std::byte{1});
  for (const std::uint64_t unit : {4 * kKiB, 16 * kKiB, 128 * kKiB, 2 * kMiB}) {
    SCOPED_TRACE(unit);
    must(try_capture({.if_taken = Store::IfTaken::kReplace, .unit_bytes = unit}));
    const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("child")));
    EXPECT_EQ(opened.manifest().memory().unit_bytes(), unit);
    expect_child_like_clone();

    // And back: the same as in one step.
    const std::unique_ptr<Sandbox> child = restore("child");
    const Captured back =
        must(snapshot::capture(kvm(), *child, store(), named("back"), {.unit_bytes = kUnitBytes}));
    const Captured direct = must(snapshot::capture(kvm(), clone(), store(), named("direct"), {}));
    EXPECT_EQ(back.memory_digest, direct.memory_digest);
    for (const char* name : {"back", "direct"}) must(store().remove(named(name)));
  }
}

TEST_P(CloneCaptureTest, WithoutAWishTheUnitsAreAsLargeAsTheParents) {
  must(try_capture({.unit_bytes = 8 * kKiB}));
  const std::unique_ptr<Sandbox> child = restore("child");
  capture(*child, "grandchild");
  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("grandchild")));
  EXPECT_EQ(opened.manifest().memory().unit_bytes(), 8 * kKiB);
}

TEST_P(CloneCaptureTest, AWorkingSetThatChangedIsSummedAnewAndAnotherIsNot) {
  must(try_capture());
  EXPECT_EQ(restore("child")->facts().guest.working_set_checksum(), seeded_scan());
  must(call(clone(), Function::kWrite, {0, kPages, kSeed + 1}));
  must(try_capture({.if_taken = Store::IfTaken::kReplace}));
  EXPECT_EQ(restore("child")->facts().guest.working_set_checksum(), seeded_scan(kSeed + 1));
  EXPECT_EQ(restore("child")->facts().guest.health_checksum(), seeded_scan(kSeed + 1, 1));
  expect_child_like_clone();
}

// ---- A parent whose index is too large to be read at every restore.

TEST_P(CloneCaptureTest, ALargeIndexIsReadWhenItIsNeededThoughTheParentIsGone) {
  vmm::BootConfig config = kv_config();
  config.ram_bytes = 64 * kMiB;
  config.working_set_bytes = 40 * kMiB;
  const Captured large = must(snapshot::capture(kvm(), *boot_guest(kvm(), config), store(),
                                                named("large"), {.unit_bytes = 4 * kKiB}));
  ASSERT_GT(read_file(file("large", kIndexFile)).size(), 256 * kKiB);
  const std::unique_ptr<Sandbox> clone = restore("large");
  must(store().remove(named("large")));
  EXPECT_EQ(capture(*clone, "again").memory_digest, large.memory_digest);
  expect_ok(snapshot::verify(store(), named("again"), Depth::kDeep));
}

// ---- Damage. A copy has its own, checked bytes by then.

class DamagedParentTest : public CloneCaptureTest {
 protected:
  void expect_refused(std::string_view why) {
    const std::vector<std::string> before = entries_of(store());
    const Error error = must_fail(try_capture());
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, why)) << error.context;
    EXPECT_EQ(entries_of(store()), before);
  }
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, DamagedParentTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(DamagedParentTest, ADamagedUnitThatTheCloneNeverTouchedIsNotTakenOver) {
  flip_bit(file("first", kMemoryFile), (kData + 3 * kPageBytes) * 8);
  if (!shows_parent()) return expect_ok(try_capture());
  expect_refused("parent: memory: unit " + std::to_string(kData / kUnitBytes));
  flip_bit(file("first", kMemoryFile), (kData + 3 * kPageBytes) * 8);
  expect_ok(try_capture());
  expect_child_like_clone();
}

// The page that the clone wrote to was copied with the damage in it.
TEST_P(DamagedParentTest, ADamagedUnitThatTheCloneWroteToGetsNoValidSum) {
  flip_bit(file("first", kMemoryFile), (kData + 100) * 8);
  if (GetParam() == Loader::kMap) {
    poke(kData, std::byte{1});
    expect_refused("parent: memory: unit " + std::to_string(kData / kUnitBytes));
    // Even if no byte of the unit is the parent's any more: the guest may have read it before.
    must(clone().machine().memory().write(kData, std::vector<std::byte>(kUnitBytes, std::byte{5})));
    expect_refused("parent: memory: unit " + std::to_string(kData / kUnitBytes));
  }
  if (GetParam() == Loader::kUffd) {
    std::byte one[1] = {};
    EXPECT_EQ(must_fail(clone().machine().memory().write(kData, one)).code, Code::kPageLost);
    EXPECT_EQ(must_fail(try_capture()).code, Code::kPageLost) << "a page of it is lost for good";
  }
}

TEST_P(DamagedParentTest, WhatTheIndexCallsZeroAndTheFileDoesNotIsFoundWhereTheCloneSawIt) {
  const std::uint64_t zero_unit = [&] {
    const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("first")));
    std::uint64_t unit = 0;
    while (must(opened.index().find(unit))) ++unit;
    return unit;
  }();
  const std::uint64_t place = zero_unit * kUnitBytes + 77;
  flip_bit(file("first", kMemoryFile), place * 8);
  if (GetParam() == Loader::kMap) {
    expect_refused("memory: byte " + std::to_string(place) + ": not zero");
  } else {
    expect_ok(try_capture());  // nobody has ever looked at that byte
    expect_child_like_clone();
  }
}

TEST_P(DamagedParentTest, ADamagedLargeIndexIsFoundBeforeItIsBelieved) {
  if (GetParam() != Loader::kMap) return;  // the others have read it whole by then
  vmm::BootConfig config = kv_config();
  config.ram_bytes = 64 * kMiB;
  config.working_set_bytes = 40 * kMiB;
  must(snapshot::capture(kvm(), *boot_guest(kvm(), config), store(), named("large"),
                         {.unit_bytes = 4 * kKiB}));
  for (const std::uint64_t byte : {40U, 100'000U}) {
    const std::unique_ptr<Sandbox> clone = restore("large");
    flip_bit(file("large", kIndexFile), byte * 8);
    const Error error = must_fail(snapshot::capture(kvm(), *clone, store(), named("child"),
                                                    {.if_taken = Store::IfTaken::kReplace}));
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, "parent: index: ")) << error.context;
    flip_bit(file("large", kIndexFile), byte * 8);
    expect_ok(snapshot::capture(kvm(), *clone, store(), named("child"),
                                {.if_taken = Store::IfTaken::kReplace}));
  }
}

}  // namespace
}  // namespace volt::test
