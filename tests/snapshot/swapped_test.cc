// Whole files in the wrong place: each is sound by itself, and together they are refused.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::Depth;
using snapshot::kIndexFile;
using snapshot::kManifestFile;
using snapshot::kMemoryFile;
using snapshot::kStateFile;
using snapshot::OpenedSnapshot;

class SwappedTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // Twins but for their seeds: all their files have the same sizes.
    for (const std::uint64_t n : {0U, 1U}) {
      vmm::BootConfig config = kv_config();
      config.seed = kSeed + n;
      const std::unique_ptr<Sandbox> guest = boot_guest(kvm(), config);
      if (n == 1) health(*guest);  // so that the CPU state differs
      capture(*guest, n == 0 ? "one" : "other");
    }
  }
  void take_from_other(const char* name) const {
    write_file(file("one", name), read_file(file("other", name)));
  }
  Error verify_error(Depth depth) const {
    return must_fail(snapshot::verify(store(), named("one"), depth));
  }
  Error restore_error(Loader loader) const { return must_fail(try_restore("one", loader)); }
};

void expect_corrupt(const Error& error, std::string_view part) {
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, part)) << error.context;
}

TEST_F(SwappedTest, TheTwinsFilesHaveTheSameSizesAndDifferentContent) {
  for (const char* name : {kIndexFile, kMemoryFile}) {
    const std::vector<std::byte> one = read_file(file("one", name));
    const std::vector<std::byte> other = read_file(file("other", name));
    EXPECT_EQ(one.size(), other.size()) << name;
    EXPECT_NE(one, other) << name;
  }
}

TEST_F(SwappedTest, AnotherSnapshotsStateIsRefused) {
  take_from_other(kStateFile);
  for (const Loader loader : {Loader::kMap, Loader::kCopy}) {
    expect_corrupt(restore_error(loader), "state: ");
  }
}

TEST_F(SwappedTest, AnotherSnapshotsIndexIsRefused) {
  take_from_other(kIndexFile);
  expect_corrupt(restore_error(Loader::kMap), "index: digest: ");
}

TEST_F(SwappedTest, AnotherSnapshotsManifestIsRefused) {
  take_from_other(kManifestFile);
  expect_corrupt(restore_error(Loader::kMap), ": it is not the one the manifest names");
}

TEST_F(SwappedTest, AnotherSnapshotsMemoryIsFoundByEveryoneWhoLooksAtIt) {
  take_from_other(kMemoryFile);
  expect_corrupt(verify_error(Depth::kDeep), "memory: ");
  expect_corrupt(restore_error(Loader::kCopy), "memory: unit ");
  const Result<snapshot::Restored> checked = snapshot::restore(
      kvm(), store(), named("one"),
      {.loader = Loader::kMap, .verify = snapshot::RestoreOptions::Verify::kEverythingFirst});
  expect_corrupt(must_fail(checked), "memory: ");
}

TEST_F(SwappedTest, AWholeSnapshotUnderAnothersDigestIsFoundByVerify) {
  for (const char* name : {kManifestFile, kStateFile, kIndexFile, kMemoryFile}) {
    take_from_other(name);
  }
  expect_ok(OpenedSnapshot::open(store(), named("one")));
  expect_corrupt(verify_error(Depth::kHeads), "manifest: its digest is ");
}

TEST_F(SwappedTest, AManifestOfAnotherKindOfFileIsRefused) {
  write_file(file("one", kManifestFile), read_file(file("one", kStateFile)));
  expect_corrupt(restore_error(Loader::kMap), "manifest: magic: ");
}

TEST_F(SwappedTest, TheOtherSnapshotIsUntouchedByAllThis) {
  for (const char* name : {kManifestFile, kStateFile, kIndexFile, kMemoryFile}) {
    take_from_other(name);
  }
  expect_ok(snapshot::verify(store(), named("other"), Depth::kDeep));
  EXPECT_EQ(scan(*restore("other")), seeded_scan(kSeed + 1));
}

// ---- What verify says of everything else in the data directory.

class StrayTest : public SnapshotTest {};

TEST_F(StrayTest, AStoreOfSnapshotsHasNoStrays) {
  capture(*boot_echo(), "echo");
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_F(StrayTest, WhatBelongsToNoSnapshotIsListedEachWithItsPath) {
  capture(*boot_echo(), "echo");
  const std::string& root = store().path();
  write_file(root + "/notes", {});
  write_file(file("echo", "extra"), {});
  write_file(root + "/names/not a name", {});
  ASSERT_EQ(::symlink("../snapshots/x", (root + "/names/gone:v1").c_str()), 0);
  const snapshot::Draft draft = must(store().begin());
  std::string all;
  for (const std::string& stray : must(snapshot::find_strays(store()))) all += stray + "\n";
  for (const char* part :
       {"notes: ", "/extra: ", "names/not a name: ", "names/gone:v1: ", "snapshots/.draft-"}) {
    EXPECT_TRUE(contains(all, part)) << part << " is not in\n" << all;
  }
  EXPECT_FALSE(contains(all, "memory")) << all;
}

}  // namespace
}  // namespace volt::test
