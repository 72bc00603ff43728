// Clones of one snapshot, and captures of clones: who sees whose changes.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::OpenedSnapshot;

class CloneTest : public EveryLoaderTest {
 protected:
  std::uint64_t get(Sandbox& sandbox, std::uint64_t record) const {
    return reply_as<std::uint64_t>(must(call(sandbox, Function::kGet, {record})));
  }
  void expect_untouched(std::string_view name) const {
    expect_ok(snapshot::verify(store(), named(name), snapshot::Depth::kDeep));
  }
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, CloneTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

constexpr std::uint64_t kRecord = 5;
constexpr std::uint64_t kCaptured = guest_abi::seeded_word(kSeed, 2 * kRecord + 1);

TEST_P(CloneTest, WhatOneCloneWritesNeitherItsSiblingsNorTheSnapshotSee) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> one = restore("kv");
  const std::unique_ptr<Sandbox> other = restore("kv");
  must(call(*one, Function::kPut, {kRecord, 99}));
  must(call(*one, Function::kWrite, {100, 300, 777}));
  EXPECT_EQ(get(*one, kRecord), 99U);
  EXPECT_NE(scan(*one), seeded_scan());
  EXPECT_EQ(get(*other, kRecord), kCaptured);
  EXPECT_EQ(scan(*other), seeded_scan());
  EXPECT_EQ(scan(*restore("kv")), seeded_scan());
  expect_untouched("kv");
}

TEST_P(CloneTest, ACallBeforeTheCaptureShowsInEveryCloneAndInTheManifest) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  must(call(*guest, Function::kPut, {kRecord, 99}));
  guest->facts().guest.add_calls("put 5 99");
  capture(*guest, "kv");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  EXPECT_EQ(get(*clone, kRecord), 99U);
  ASSERT_EQ(clone->facts().guest.calls_size(), 1);
  EXPECT_EQ(clone->facts().guest.calls(0), "put 5 99");
  EXPECT_EQ(scan(*clone), clone->facts().guest.working_set_checksum());
  EXPECT_NE(scan(*clone), seeded_scan());
}

TEST_P(CloneTest, WritesOfManyPagesBeforeTheCaptureAreWhatAClonesScanSums) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  must(call(*guest, Function::kWrite, {0, kPages, kSeed + 1}));
  capture(*guest, "kv");
  EXPECT_EQ(scan(*restore("kv")), seeded_scan(kSeed + 1));
}

TEST_P(CloneTest, ACaptureOfACloneKeepsItsChangesAndNamesItsParent) {
  const snapshot::Captured first = capture(*boot_kv(), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  must(call(*clone, Function::kPut, {kRecord, 99}));
  capture(*clone, "second");
  const std::unique_ptr<Sandbox> grandchild = restore("second");
  must(call(*grandchild, Function::kPut, {kRecord + 1, 98}));
  capture(*grandchild, "third");

  const std::unique_ptr<Sandbox> last = restore("third");
  EXPECT_EQ(get(*last, kRecord), 99U);
  EXPECT_EQ(get(*last, kRecord + 1), 98U);
  EXPECT_EQ(get(*restore("second"), kRecord + 1),
            guest_abi::seeded_word(kSeed, 2 * (kRecord + 1) + 1));
  EXPECT_EQ(scan(*restore("first")), seeded_scan());

  const OpenedSnapshot second = must(OpenedSnapshot::open(store(), named("second")));
  const std::string& parent = second.manifest().parent();
  EXPECT_EQ(formats::to_hex(std::as_bytes(std::span(parent))), formats::to_hex(first.digest));
  for (const char* name : {"first", "second", "third"}) expect_untouched(name);
}

TEST_P(CloneTest, ASnapshotDoesNotNeedTheOneItCameFrom) {
  capture(*boot_kv(), "first");
  {
    const std::unique_ptr<Sandbox> clone = restore("first");
    must(call(*clone, Function::kPut, {kRecord, 99}));
    capture(*clone, "second");
  }
  must(store().remove(named("first")));
  EXPECT_EQ(get(*restore("second"), kRecord), 99U);
  expect_untouched("second");
}

TEST_P(CloneTest, ACloneAndItsSourceGoOnAfterACapture) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  EXPECT_EQ(scan(*clone), seeded_scan());
  capture(*clone, "again");
  EXPECT_EQ(scan(*clone), seeded_scan());
  EXPECT_EQ(get(*clone, kRecord), kCaptured);
}

TEST_P(CloneTest, LabelsAndBootTimeAreKept) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  must(snapshot::capture(kvm(), *guest, store(), named("echo"),
                         {.labels = {{"team", "blue"}, {"env", "test"}}}));
  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("echo")));
  ASSERT_EQ(opened.manifest().labels_size(), 2);
  EXPECT_EQ(opened.manifest().labels(0).key(), "env");
  EXPECT_EQ(opened.manifest().labels(1).value(), "blue");
  EXPECT_EQ(opened.manifest().boot_us(), guest->facts().boot_us);
  EXPECT_EQ(restore("echo")->facts().boot_us, guest->facts().boot_us);
}

TEST_P(CloneTest, ARefusedLabelLeavesNothingBehindAndTheSourceRuns) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  const Error error = must_fail(
      snapshot::capture(kvm(), *guest, store(), named("echo"), {.labels = {{"Not A Key", "x"}}}));
  EXPECT_TRUE(contains(error.context, "labels[0].key")) << error.context;
  EXPECT_TRUE(entries_of(store()).empty());
  health(*guest);
}

}  // namespace
}  // namespace volt::test
