// kill -9 at random moments of a capture. Whatever the moment: every name in the store is a whole
// snapshot, the others are untouched, and the next writer clears what is left.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <random>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"
#include "vmm/identity.h"

namespace volt::test {
namespace {

using snapshot::Depth;

class KillTest : public SnapshotTest {
 protected:
  // A child that boots, says that it begins, captures, and ends. Even rounds replace a name that
  // is there already, odd ones make a new one.
  std::string name_of(int round) const {
    return round % 2 == 0 ? "replaced" : "new:" + std::to_string(round);
  }
  Child start_capture(int round) const {
    return Child([this, round](const Child& child) {
      const vmm::Kvm own = must(vmm::Kvm::open());
      const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
      child.say("b");
      must(snapshot::capture(
          own, *guest, store(), named(name_of(round)),
          {.labels = {{"round", std::to_string(round)}}, .if_taken = Store::IfTaken::kReplace}));
    });
  }
  std::uint64_t capture_ns() const {
    std::uint64_t longest = 0;
    for (int i = 0; i < 3; ++i) {
      Child child = start_capture(-2);
      EXPECT_EQ(child.next(), 'b');
      const std::uint64_t began = vmm::monotonic_clock_ns();
      EXPECT_EQ(child.failure(), "");
      longest = std::max(longest, vmm::monotonic_clock_ns() - began);
    }
    return longest;
  }
  // Everything that has a name is whole; the oldest is never touched.
  void expect_only_whole_snapshots() const {
    for (const auto& listed : must(store().list())) {
      expect_ok(snapshot::verify(store(), listed.reference, Depth::kDeep));
    }
    EXPECT_TRUE(store().exists(named("steady")));
    EXPECT_TRUE(store().exists(named("replaced"))) << "lost while it was being replaced";
  }
};

TEST_F(KillTest, AKilledCaptureLeavesAWholeSnapshotOrNone) {
  const std::uint32_t seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  capture(*boot_kv(), "steady");
  const std::uint64_t span_ns = capture_ns();
  const int rounds = long_run() ? 1'000 : 100;
  int interrupted = 0;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    Child child = start_capture(round);
    ASSERT_EQ(child.next(), 'b');
    const std::uint64_t delay_ns = random() % span_ns;
    const timespec delay = {.tv_sec = static_cast<time_t>(delay_ns / 1'000'000'000),
                            .tv_nsec = static_cast<long>(delay_ns % 1'000'000'000)};
    child.hears(&delay);  // its end, if that comes first
    child.kill(SIGKILL);
    EXPECT_EQ(child.failure(), "");
    expect_only_whole_snapshots();
    const std::string name = name_of(round);
    if (child.was_killed() && !must(snapshot::find_strays(store())).empty()) ++interrupted;
    if (!store().exists(named(name))) continue;
    EXPECT_EQ(scan(*restore(name)), seeded_scan());
    if (name != "replaced") must(store().remove(named(name)));
  }
  EXPECT_GT(interrupted, rounds / 20) << "hardly a kill met a capture, so little was tested";

  // The next create clears what the last ones left.
  capture(*boot_echo(), "after");
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
  EXPECT_EQ(must(store().list()).size(), 3U);
  EXPECT_EQ(entries_of(store()).size(), 6U);
}

}  // namespace
}  // namespace volt::test
