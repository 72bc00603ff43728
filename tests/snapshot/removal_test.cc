// Snapshots that are removed while they are in use.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

class RemovalTest : public EveryLoaderTest {};

INSTANTIATE_TEST_SUITE_P(EveryLoader, RemovalTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(RemovalTest, ARunningCloneSurvivesTheRemovalOfItsSnapshot) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> untouched = restore("kv");
  const std::unique_ptr<Sandbox> running = restore("kv");
  health(*running);
  must(store().remove(named("kv")));
  EXPECT_TRUE(entries_of(store()).empty());
  EXPECT_EQ(must_fail(try_restore("kv", GetParam())).code, Code::kNotFound);
  EXPECT_EQ(scan(*running), seeded_scan());
  EXPECT_EQ(scan(*untouched), seeded_scan());
}

TEST_P(RemovalTest, ACloneOfARemovedSnapshotCanBeCaptured) {
  const snapshot::Captured first = capture(*boot_kv(), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  must(store().remove(named("first")));
  EXPECT_EQ(capture(*clone, "second").memory_digest, first.memory_digest);
  expect_ok(snapshot::verify(store(), named("second"), snapshot::Depth::kDeep));
}

// Another process removes and makes the snapshot again and again: a restore works, or says that
// there is none.
TEST_P(RemovalTest, ARestoreWorksOrFindsNothingWhileAnotherProcessRemovesAndMakesTheSnapshot) {
  Child writer([this] {
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
    for (int round = 0; round < 25; ++round) {
      test::capture(own, *guest, store(), "kv");
      must(store().remove(named("kv")));
    }
  });
  int worked = 0;
  int found_nothing = 0;
  while (writer.runs()) {
    const Result<snapshot::Restored> restored = try_restore("kv", GetParam());
    if (restored) {
      EXPECT_EQ(scan(*restored->sandbox), seeded_scan());
      ++worked;
    } else {
      EXPECT_EQ(restored.error().code, Code::kNotFound) << restored.error().context;
      ++found_nothing;
    }
  }
  EXPECT_EQ(writer.failure(), "");
  EXPECT_GT(worked, 0);
  EXPECT_GT(found_nothing, 0);
  store().sweep();
  EXPECT_TRUE(entries_of(store()).empty());
}

}  // namespace
}  // namespace volt::test
