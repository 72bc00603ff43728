// Packed storage: the same snapshot, whatever holds its memory.
#include "snapshot/storage.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "snapshot/usage.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using snapshot::kIndexFile;
using snapshot::kManifestFile;
using snapshot::kMemoryFile;
using snapshot::kUnitsFile;
using snapshot::OpenedSnapshot;
using snapshot::StorageChange;
using snapshot::Usage;
using snapshot::UsageCount;

class StorageTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    uffd_works_ = snapshot::uffd_usable().has_value();
  }
  OpenedSnapshot open(std::string_view name) const {
    return must(OpenedSnapshot::open(store(), named(name)));
  }
  // The loaders that need no memory file.
  std::vector<Loader> loaders() const {
    return uffd_works_ ? std::vector{Loader::kUffd, Loader::kCopy} : std::vector{Loader::kCopy};
  }
  void expect_restores(std::string_view name) const {
    for (const Loader loader : loaders()) EXPECT_EQ(scan(*restore(name, loader)), seeded_scan());
  }
  snapshot::Captured capture_packed(Sandbox& sandbox, std::string_view name) const {
    return must(snapshot::capture(kvm(), sandbox, store(), named(name),
                                  {.storage = snapshot::Storage::kPacked}));
  }
  Usage usage_of(std::string_view name) const {
    return must(must(snapshot::count_usage(store())).of(open(name)));
  }

 private:
  bool uffd_works_ = false;
};

TEST_F(StorageTest, PackAndUnpackKeepDigestManifestIndexAndBytesInUnitsOfAnySize) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, text_bytes(kMiB, 1));
  const std::vector<std::byte> memory = memory_of(*guest);
  for (const std::uint64_t unit : {std::uint64_t{4096}, std::uint64_t{65536}, 2 * kMiB}) {
    SCOPED_TRACE(unit);
    const auto captured =
        must(snapshot::capture(kvm(), *guest, store(), named("kv"), {.unit_bytes = unit}));
    const auto raw = read_file(file("kv", kMemoryFile));
    const auto manifest = read_file(file("kv", kManifestFile));
    const auto index = read_file(file("kv", kIndexFile));
    const StorageChange packed = pack(store(), "kv");
    EXPECT_TRUE(packed.changed);
    EXPECT_EQ(packed.units, open("kv").index().entry_count());
    EXPECT_FALSE(std::filesystem::exists(file("kv", kMemoryFile)));
    EXPECT_FALSE(pack(store(), "kv").changed);
    EXPECT_LT(disk_bytes(store().packs() + "/" + packs_of(store()).at(0)), raw.size());
    EXPECT_EQ(open("kv").digest(), captured.digest);
    EXPECT_EQ(read_file(file("kv", kManifestFile)), manifest);
    EXPECT_EQ(read_file(file("kv", kIndexFile)), index);
    expect_ok(verify_everything(store()));
    for (const Loader loader : loaders()) {
      EXPECT_EQ(memory_of(*restore("kv", loader)), memory) << snapshot::loader_name(loader);
    }
    expect_restores("kv");

    EXPECT_TRUE(unpack(store(), "kv").changed);
    EXPECT_FALSE(unpack(store(), "kv").changed);
    EXPECT_EQ(read_file(file("kv", kMemoryFile)), raw);
    EXPECT_EQ(read_file(file("kv", kManifestFile)), manifest);
    EXPECT_EQ(memory_of(*restore("kv", Loader::kMap)), memory);
    EXPECT_FALSE(std::filesystem::exists(file("kv", kUnitsFile)));
    EXPECT_TRUE(packs_of(store()).empty()) << "a pack without users stayed";
    expect_ok(verify_everything(store()));
    must(store().remove(named("kv")));
  }
}

TEST_F(StorageTest, ManyThreadsAndLevelsGiveTheSameMemory) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, text_bytes(3 * kMiB, 2));
  capture(*guest, "kv");
  const auto raw = read_file(file("kv", kMemoryFile));
  for (const auto& [level, threads] : {std::pair{1, 1U}, {3, 2U}, {19, 7U}}) {
    pack(store(), "kv", {.level = level, .threads = threads});
    expect_ok(verify_deep(store(), "kv"));
    must(snapshot::unpack(store(), named("kv"), threads));
    EXPECT_EQ(read_file(file("kv", kMemoryFile)), raw);
  }
}

TEST_F(StorageTest, LoaderMapIsRefusedForAPackedSnapshotAndAutoTakesAnother) {
  capture_packed(*boot_kv(), "kv");
  const Error error = must_fail(try_restore("kv", Loader::kMap));
  EXPECT_EQ(error.code, Code::kConflict);
  EXPECT_TRUE(contains(error.context, "in packs")) << error.context;
  EXPECT_EQ(scan(*restore("kv", Loader::kAuto)), seeded_scan());
}

TEST_F(StorageTest, AClonesCaptureOfAPackedParentIsTheSameAsOfARawOne) {
  const auto parent = capture(*boot_kv(), "kv");
  pack(store(), "kv");
  for (const Loader loader : loaders()) {
    const std::unique_ptr<Sandbox> clone = restore("kv", loader);
    EXPECT_EQ(capture(*clone, "child").memory_digest, parent.memory_digest);
    expect_ok(verify_deep(store(), "child"));
    must(store().remove(named("child")));
  }
}

TEST_F(StorageTest, ClonesGoOnWhileTheirSnapshotIsPackedAndUnpacked) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> mapped = restore("kv", Loader::kMap);
  pack(store(), "kv");
  EXPECT_EQ(scan(*mapped), seeded_scan());
  const std::unique_ptr<Sandbox> paged = restore("kv", Loader::kAuto);
  unpack(store(), "kv");
  EXPECT_EQ(scan(*paged), seeded_scan());
}

TEST_F(StorageTest, ASecondSnapshotAfterAMebibyteOfChangesStoresLittleMore) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const auto first = capture_packed(*guest, "first");
  write_memory(*guest, kSpare, random_bytes(kMiB, 7));
  const auto second = capture_packed(*guest, "second");
  EXPECT_GT(first.stored_bytes, 2 * kMiB);
  EXPECT_LE(second.stored_bytes, 3 * kMiB / 2);
  EXPECT_GE(second.stored_bytes, kMiB);
  EXPECT_EQ(packs_of(store()).size(), 2U);
  std::uint64_t on_disk = 0;
  for (const std::string& name : packs_of(store())) {
    on_disk = std::max(on_disk, disk_bytes(store().packs() + "/" + name));
  }
  EXPECT_LE(on_disk, first.stored_bytes + 64 * 1024);
  expect_ok(verify_everything(store()));
}

TEST_F(StorageTest, AUnitThatIsInMemoryTwiceIsStoredOnce) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const auto bytes = random_bytes(kUnitBytes, 3);
  for (std::uint64_t i = 0; i < 8; ++i) write_memory(*guest, kSpare + i * 2 * kUnitBytes, bytes);
  capture(*guest, "kv");
  EXPECT_EQ(pack(store(), "kv").shared_units, 7U);
  expect_ok(verify_everything(store()));
  expect_restores("kv");
}

TEST_F(StorageTest, LinksCountTheSnapshotsThatUseAPack) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture_packed(*guest, "a");
  const std::string pack_path = store().packs() + "/" + packs_of(store()).at(0);
  EXPECT_EQ(links_of(pack_path), 2U);
  must(call(*guest, Function::kPut, {5, 99}));
  capture_packed(*guest, "b");
  EXPECT_EQ(links_of(pack_path), 3U);
  EXPECT_EQ(packs_of(store()).size(), 2U);
  unpack(store(), "a");
  EXPECT_EQ(links_of(pack_path), 2U);
  must(store().remove(named("b")));
  EXPECT_TRUE(packs_of(store()).empty());
  expect_ok(verify_deep(store(), "a"));
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_F(StorageTest, RemovingASnapshotInAnyOrderHarmsNoOther) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  std::vector<int> order = {0, 1, 2};
  do {
    std::vector<std::vector<std::byte>> memories;
    for (int i = 0; i < 3; ++i) {
      write_memory(*guest, kSpare + static_cast<std::uint64_t>(i) * kMiB,
                   random_bytes(kUnitBytes, 100 + static_cast<std::uint32_t>(i)));
      memories.push_back(memory_of(*guest));
      capture_packed(*guest, "s:" + std::to_string(i));
    }
    for (std::size_t gone = 0; gone < order.size(); ++gone) {
      must(store().remove(named("s:" + std::to_string(order[gone]))));
      expect_ok(verify_everything(store()));
      for (std::size_t left = gone + 1; left < order.size(); ++left) {
        const auto which = static_cast<std::size_t>(order[left]);
        EXPECT_EQ(memory_of(*restore("s:" + std::to_string(which), Loader::kCopy)),
                  memories[which]);
      }
    }
    EXPECT_TRUE(packs_of(store()).empty());
    EXPECT_TRUE(entries_of(store()).empty());
  } while (std::ranges::next_permutation(order).found);
}

TEST_F(StorageTest, UsageAddsUp) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture_packed(*guest, "a");
  const Usage alone = usage_of("a");
  EXPECT_EQ(alone.shared_bytes, 0U);
  EXPECT_EQ(alone.unique_bytes(), alone.stored_bytes);
  write_memory(*guest, kSpare, random_bytes(4 * kUnitBytes, 9));
  capture_packed(*guest, "b");
  must(store().list());
  const Usage a = usage_of("a");
  const Usage b = usage_of("b");
  EXPECT_EQ(a.stored_bytes, alone.stored_bytes);
  EXPECT_EQ(a.shared_bytes, b.shared_bytes);
  // What only b has: those units, and what of the guest's own a capture changes.
  EXPECT_GE(b.unique_bytes(), 4 * kUnitBytes);
  EXPECT_LE(b.unique_bytes(), 6 * kUnitBytes);
  // All that is stored is each one's own and what is shared, once.
  std::uint64_t live = 0;
  UsageCount count = must(snapshot::count_usage(store()));
  for (const auto& [pack_name, bytes] : count.live_bytes()) live += bytes;
  EXPECT_EQ(live, a.unique_bytes() + b.unique_bytes() + a.shared_bytes);
  // Another name for one of them changes nothing.
  expect_ok(count.add(open("a")));
  EXPECT_EQ(must(count.of(open("a"))).shared_bytes, a.shared_bytes);
}

TEST_F(StorageTest, PacksAreForTheirOwnerAlone) {
  capture_packed(*boot_kv(), "kv");
  struct stat info = {};
  ASSERT_EQ(::stat(store().packs().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
}

TEST_F(StorageTest, WhatALatePackOrUnpackFindsChangedIsNoHarm) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture(*guest, "kv");
  const snapshot::LockedSnapshot locked = must(snapshot::open_locked(store(), named("kv")));
  EXPECT_EQ(must_fail(snapshot::pack(store(), named("kv"), {})).code, Code::kBusy);
  EXPECT_EQ(must_fail(snapshot::unpack(store(), named("kv"), 1)).code, Code::kBusy);
  expect_ok(verify_deep(store(), "kv"));
  EXPECT_EQ(must_fail(snapshot::pack(store(), named("none"), {})).code, Code::kNotFound);
}

}  // namespace
}  // namespace volt::test
