// What prune gives back, and what it leaves alone.
#include "snapshot/prune.h"

#include <gtest/gtest.h>

#include "snapshot/usage.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

class PruneTest : public SnapshotTest {
 protected:
  snapshot::Captured capture_packed(Sandbox& sandbox, std::string_view name) const {
    return must(snapshot::capture(kvm(), sandbox, store(), named(name),
                                  {.storage = snapshot::Storage::kPacked}));
  }
  snapshot::Pruned prune(unsigned dead_percent = 20, bool dry_run = false) const {
    return must(snapshot::prune(store(), {.dry_run = dry_run, .dead_percent = dead_percent}));
  }
  std::uint64_t packs_bytes() const {
    std::uint64_t bytes = 0;
    for (const std::string& name : packs_of(store())) {
      bytes += disk_bytes(store().packs() + "/" + name);
    }
    return bytes;
  }
  // Two snapshots that share the guest and have a MiB each of their own; then one goes.
  void make_half_dead_pack() const {
    const std::unique_ptr<Sandbox> guest = boot_kv();
    write_memory(*guest, kSpare, random_bytes(3 * kMiB, 1));
    capture_packed(*guest, "old");
    write_memory(*guest, kSpare, std::vector<std::byte>(3 * kMiB));
    capture_packed(*guest, "young");
    must(store().remove(named("old")));
  }
};

TEST_F(PruneTest, AStoreWithoutGarbageStaysAsItIs) {
  const auto memory = [&] {
    const std::unique_ptr<Sandbox> guest = boot_kv();
    capture_packed(*guest, "packed");
    capture(*guest, "raw");
    return memory_of(*guest);
  }();
  const auto packs = packs_of(store());
  const auto pruned = prune();
  EXPECT_TRUE(pruned.removed.empty());
  EXPECT_EQ(pruned.bytes, 0U);
  EXPECT_EQ(packs_of(store()), packs);
  EXPECT_EQ(memory_of(*restore("packed", Loader::kCopy)), memory);
}

TEST_F(PruneTest, APackThatIsMostlyDeadIsWrittenAnewAndItsBytesAreFreed) {
  make_half_dead_pack();
  const auto packs = packs_of(store());
  const std::uint64_t before = packs_bytes();
  const auto digest = must(store().digest_of(named("young")));
  const auto told = prune(20, true);
  EXPECT_GT(told.bytes, 2 * kMiB);
  EXPECT_EQ(packs_of(store()), packs) << "a dry run changed something";
  const auto pruned = prune();
  EXPECT_GT(pruned.bytes, 2 * kMiB);
  EXPECT_GE(before - packs_bytes() + 128 * 1024, pruned.bytes) << "said more than it did";
  EXPECT_LE(before - packs_bytes(), pruned.bytes + 128 * 1024) << "did more than it said";
  EXPECT_EQ(must(store().digest_of(named("young"))), digest);
  expect_ok(verify_everything(store()));
  EXPECT_EQ(scan(*restore("young", Loader::kCopy)), seeded_scan());
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
  EXPECT_TRUE(prune().removed.empty()) << "a second prune found more";
}

TEST_F(PruneTest, APackThatIsMostlyAliveIsKeptAndItsDeadBytesAreTold) {
  make_half_dead_pack();
  const auto packs = packs_of(store());
  const auto pruned = prune(90);
  EXPECT_TRUE(pruned.removed.empty());
  EXPECT_GE(pruned.kept_dead_bytes, 3 * kMiB);
  EXPECT_EQ(packs_of(store()), packs);
}

TEST_F(PruneTest, SnapshotsThatShareAPackThatIsWrittenAnewShareTheNewOne) {
  make_half_dead_pack();
  {
    const std::unique_ptr<Sandbox> guest = restore("young", Loader::kCopy);
    write_memory(*guest, kSpare + 4 * kMiB, random_bytes(kUnitBytes, 5));
    capture_packed(*guest, "child");
  }
  const std::uint64_t before = packs_bytes();
  prune();
  EXPECT_LT(packs_bytes(), before - 2 * kMiB);
  expect_ok(verify_everything(store()));
  const auto count = must(snapshot::count_usage(store()));
  const auto young = must(count.of(must(snapshot::OpenedSnapshot::open(store(), named("young")))));
  EXPECT_GT(young.shared_bytes, young.stored_bytes / 2);
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_F(PruneTest, WhatKilledWritersLeftIsRemovedAndWhatIsUsedIsNot) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture_packed(*guest, "kv");
  capture(*guest, "raw");
  const std::string unlinked = snapshot::pack_file_name({std::byte{9}});
  write_file(store().packs() + "/" + unlinked, random_bytes(4096, 1));
  write_file(store().packs() + "/.draft-left", random_bytes(4096, 1));
  write_file(file("kv", "memory.new"), random_bytes(4096, 1));
  write_file(file("raw", "units.new"), random_bytes(4096, 1));
  write_file(file("raw", "units"), random_bytes(4096, 1));
  EXPECT_EQ(must(snapshot::find_strays(store())).size(), 5U);
  const auto packs_before = packs_of(store()).size();
  prune();
  EXPECT_EQ(packs_of(store()).size(), packs_before - 2);
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
  expect_ok(verify_everything(store()));
}

TEST_F(PruneTest, ItIsBusyWhileSomebodyPacksAndPackingWhileSomebodyPrunes) {
  capture(*boot_kv(), "kv");
  {
    const auto held = must(snapshot::Packs::open(store().packs(), snapshot::Packs::Lock::kShared));
    EXPECT_EQ(must_fail(snapshot::prune(store(), {})).code, Code::kBusy);
  }
  const auto held = must(snapshot::Packs::open(store().packs(), snapshot::Packs::Lock::kExclusive));
  EXPECT_EQ(must_fail(snapshot::pack(store(), named("kv"), {})).code, Code::kBusy);
  expect_ok(verify_everything(store()));
}

TEST_F(PruneTest, ASnapshotThatCannotBeReadEndsThePruningOfPacks) {
  make_half_dead_pack();
  const auto packs = packs_of(store());
  flip_bit(file("young", snapshot::kUnitsFile), 100);
  EXPECT_EQ(must_fail(snapshot::prune(store(), {})).code, Code::kCorrupt);
  EXPECT_EQ(packs_of(store()), packs);
}

}  // namespace
}  // namespace volt::test
