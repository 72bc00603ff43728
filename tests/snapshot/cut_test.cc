// A memory file that is cut short: refused before a restore, an error of the clone after it.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::kMemoryFile;
using snapshot::OpenedSnapshot;

class CutTest : public EveryLoaderTest {
 protected:
  void SetUp() override {
    EveryLoaderTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) capture(*boot_kv(), "kv");
  }
  void cut(std::uint64_t bytes) const { cut_file(file("kv", kMemoryFile), bytes); }
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, CutTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(CutTest, AMemoryFileOfAnyOtherSizeIsNotOpened) {
  for (const std::uint64_t bytes :
       {kSmallRam + 1, kSmallRam - 1, 7 * kMiB, std::uint64_t{4096}, std::uint64_t{0}}) {
    cut(bytes);
    const Error error = must_fail(try_restore("kv", GetParam()));
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, "memory: size: ")) << error.context;
  }
}

// The guest's own pages are in front of the cut, a part of its working set behind it.
TEST_P(CutTest, ARunningClonesNextTouchOfALostPageIsAnErrorOfThatCloneAlone) {
  capture(*boot_kv(), "sound");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  const std::unique_ptr<Sandbox> sibling = restore("sound");
  health(*clone);
  cut(7 * kMiB);
  health(*clone);
  if (GetParam() == Loader::kCopy) {
    EXPECT_EQ(scan(*clone), seeded_scan()) << "a copy needs no file";
  } else {
    EXPECT_EQ(must_fail(call(*clone, Function::kScan, {0, kPages})).code, Code::kPageLost);
    EXPECT_EQ(must_fail(call(*clone, Function::kScan, {0, kPages})).code, Code::kPageLost);
  }
  EXPECT_EQ(scan(*sibling), seeded_scan());
}

TEST_P(CutTest, ACloneWithoutAnyOfItsPagesIsAnErrorToo) {
  const std::unique_ptr<Sandbox> clone = restore("kv");
  cut(0);
  if (GetParam() == Loader::kCopy) {
    EXPECT_EQ(scan(*clone), seeded_scan());
  } else {
    EXPECT_EQ(must_fail(call(*clone, Function::kHealth)).code, Code::kPageLost);
  }
}

TEST_P(CutTest, ACloneWhoseParentLostPagesIsNotCapturedAndLeavesNothing) {
  const std::unique_ptr<Sandbox> clone = restore("kv");
  health(*clone);
  cut(7 * kMiB);
  const Result<snapshot::Captured> captured =
      snapshot::capture(kvm(), *clone, store(), named("new"), {});
  if (GetParam() == Loader::kCopy) {
    expect_ok(captured);
    return;
  }
  EXPECT_EQ(must_fail(captured).code, Code::kCorrupt);
  EXPECT_TRUE(contains(captured.error().context, "parent: memory")) << captured.error().context;
  EXPECT_EQ(entries_of(store()).size(), 2U);
}

TEST_P(CutTest, TheHostsOwnReadOfALostPageIsAnErrorToo) {
  const std::unique_ptr<Sandbox> clone = restore("kv");
  cut(7 * kMiB);
  std::byte one[1];
  const Result<> behind = clone->machine().memory().read(7 * kMiB + kUnitBytes, one);
  if (GetParam() == Loader::kCopy) {
    expect_ok(behind);
  } else {
    EXPECT_EQ(must_fail(behind).code, Code::kPageLost);
  }
  expect_ok(clone->machine().memory().read(kMiB, one));
}

}  // namespace
}  // namespace volt::test
