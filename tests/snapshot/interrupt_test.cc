// The user stops a capture or a restore: it ends with nothing left behind. In children, because a
// process that was asked to stop stays so.
#include <gtest/gtest.h>

#include <random>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"
#include "vmm/identity.h"

namespace volt::test {
namespace {

class InterruptedTest : public SnapshotTest {};

TEST_F(InterruptedTest, ACaptureThatIsToldToStopLeavesNothing) {
  for (const int signal : {SIGINT, SIGTERM}) {
    Child child([&] {
      const vmm::Kvm own = must(vmm::Kvm::open());
      const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
      vmm::stop_on_signals();
      check(::raise(signal) == 0, "raise");
      const Error error = must_fail(snapshot::capture(own, *guest, store(), named("new"), {}));
      check(error.code == Code::kInterrupted, error.context);
    });
    EXPECT_EQ(child.failure(), "");
    EXPECT_TRUE(entries_of(store()).empty());
  }
}

TEST_F(InterruptedTest, ASignalAtAnyMomentOfACaptureLeavesAWholeSnapshotOrNothing) {
  const std::uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    Child child([this](const Child& self) {
      const vmm::Kvm own = must(vmm::Kvm::open());
      const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
      vmm::stop_on_signals();
      self.say("b");
      const Result<snapshot::Captured> captured =
          snapshot::capture(own, *guest, store(), named("new"), {});
      check(captured || captured.error().code == Code::kInterrupted,
            captured ? "" : captured.error().context);
      check(captured.has_value() == store().exists(named("new")), "said one thing, did another");
    });
    ASSERT_EQ(child.next(), 'b');
    const timespec delay = {.tv_sec = 0, .tv_nsec = static_cast<long>(random() % 20'000'000)};
    child.hears(&delay);
    child.kill(SIGTERM);
    EXPECT_EQ(child.failure(), "");
    if (store().exists(named("new"))) {
      expect_ok(snapshot::verify(store(), named("new"), snapshot::Depth::kDeep));
      must(store().remove(named("new")));
    }
    EXPECT_TRUE(entries_of(store()).empty());
  }
}

TEST_F(InterruptedTest, ARestoreThatCopiesOrChecksEverythingStopsWhenTold) {
  capture(*boot_kv(), "kv");
  Child child([this] {
    const vmm::Kvm own = must(vmm::Kvm::open());
    vmm::stop_on_signals();
    check(::raise(SIGTERM) == 0, "raise");
    const snapshot::RestoreOptions copy = {.loader = Loader::kCopy};
    const snapshot::RestoreOptions checked = {
        .loader = Loader::kMap, .verify = snapshot::RestoreOptions::Verify::kEverythingFirst};
    for (const snapshot::RestoreOptions& options : {copy, checked}) {
      const Error error = must_fail(snapshot::restore(own, store(), named("kv"), options));
      check(error.code == Code::kInterrupted, error.context);
    }
  });
  EXPECT_EQ(child.failure(), "");
}

}  // namespace
}  // namespace volt::test
