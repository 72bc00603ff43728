// Differences and foldings that are killed, or run out of room: all of one, or nothing; and no
// other snapshot is touched.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <random>

#include "tests/snapshot/child.h"
#include "tests/snapshot/difference.h"
#include "tests/snapshot/small_disk.h"
#include "vmm/identity.h"

namespace volt::test {
namespace {

class DifferenceFaultTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    RecordProperty("seed", std::to_string(seed_));
    capture(*boot_kv(), "steady");
  }
  // A clone of `steady` with 16 units of its own.
  std::unique_ptr<Sandbox> changed_clone(const vmm::Kvm& kvm, std::uint64_t round) const {
    std::unique_ptr<Sandbox> clone =
        must(snapshot::restore(kvm, store(), named("steady"), {.loader = Loader::kMap})).sandbox;
    for (std::uint64_t i = 0; i < 16; ++i) {
      const std::byte value[] = {static_cast<std::byte>(round + i)};
      must(clone->machine().memory().write(kData + 2 * i * kUnitBytes, value));
    }
    return clone;
  }
  Captured diff(const vmm::Kvm& kvm, std::string_view name, std::uint64_t round) const {
    const std::unique_ptr<Sandbox> clone = changed_clone(kvm, round);
    return must(snapshot::capture(kvm, *clone, store(), named(name), options(round)));
  }
  static snapshot::CaptureOptions options(std::uint64_t round) {
    return {.if_taken = Store::IfTaken::kReplace,
            .mode = CaptureMode::kDiff,
            .storage = round % 2 == 0 ? Storage::kRaw : Storage::kPacked};
  }
  void expect_all_whole() const {
    for (const auto& listed : must(store().list())) {
      expect_ok(snapshot::verify(store(), listed.reference, Depth::kDeep));
    }
    EXPECT_TRUE(store().exists(named("steady")));
  }
  // Kills `child` at a moment of the work it has just begun, which takes about `span_ns`.
  bool kill_within(Child& child, std::uint64_t span_ns) {
    const std::uint64_t delay_ns = random_() % span_ns;
    const timespec delay = {.tv_sec = 0, .tv_nsec = static_cast<long>(delay_ns % 1'000'000'000)};
    child.hears(&delay);
    child.kill(SIGKILL);
    EXPECT_EQ(child.failure(), "");
    return child.was_killed();
  }
  template <typename F>
  static std::uint64_t longest_ns(F&& work) {
    std::uint64_t longest = 1;
    for (int i = 0; i < 3; ++i) {
      const std::uint64_t began = vmm::monotonic_clock_ns();
      work(i);
      longest = std::max(longest, vmm::monotonic_clock_ns() - began);
    }
    return longest;
  }
  static int rounds() { return long_run() ? 1'000 : 100; }
  std::uint32_t seed() const { return seed_; }

 private:
  const std::uint32_t seed_ = std::random_device()();
  std::mt19937_64 random_{seed_};
};

TEST_F(DifferenceFaultTest, AKilledCaptureLeavesAWholeSnapshotOrNone) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const auto start = [this](std::uint64_t round) {
    return Child([this, round](const Child& child) {
      const vmm::Kvm own = must(vmm::Kvm::open());
      const std::unique_ptr<Sandbox> clone = changed_clone(own, round);
      child.say("b");
      must(snapshot::capture(own, *clone, store(), named("diff"), options(round)));
    });
  };
  const std::uint64_t span_ns = longest_ns([&](int i) {
    Child child = start(static_cast<std::uint64_t>(i));
    EXPECT_EQ(child.next(), 'b');
    EXPECT_EQ(child.failure(), "");
  });
  int killed = 0;
  for (int round = 0; round < rounds() && !HasFailure(); ++round) {
    Child child = start(static_cast<std::uint64_t>(round));
    ASSERT_EQ(child.next(), 'b');
    if (kill_within(child, span_ns)) ++killed;
    expect_all_whole();
    EXPECT_TRUE(store().exists(named("diff"))) << "lost while it was being replaced";
  }
  EXPECT_GT(killed, rounds() / 20) << "hardly a kill met a capture, so little was tested";
  diff(kvm(), "after", 1);
  must(snapshot::compact(store(), named("after"), Storage::kPacked, {}));
  store().sweep();
  for (const std::string& stray : must(snapshot::find_strays(store()))) {
    EXPECT_TRUE(stray.starts_with("packs/")) << stray;  // for prune
  }
}

TEST_F(DifferenceFaultTest, AKilledFoldingLeavesTheSnapshotAsItWas) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  const auto start = [this](int round) {
    return Child([this, round](const Child& child) {
      child.say("b");
      must(snapshot::compact(store(), named("diff"),
                             round % 2 == 0 ? Storage::kRaw : Storage::kPacked, {}));
    });
  };
  const std::uint64_t span_ns = longest_ns([&](int i) {
    diff(kvm(), "diff", static_cast<std::uint64_t>(i));
    Child child = start(i);
    EXPECT_EQ(child.failure(), "b");
  });
  int killed = 0;
  for (int round = 0; round < rounds() && !HasFailure(); ++round) {
    // Also what another killed folding left is folded.
    if (round % 3 == 0) diff(kvm(), "diff", static_cast<std::uint64_t>(round));
    const formats::Sha256 before =
        must(OpenedSnapshot::open(store(), named("diff"))).index().digest();
    Child child = start(round);
    ASSERT_EQ(child.next(), 'b');
    if (kill_within(child, span_ns)) ++killed;
    expect_all_whole();
    const OpenedSnapshot after = must(OpenedSnapshot::open(store(), named("diff")));
    EXPECT_EQ(after.index().digest(), before);
  }
  EXPECT_GT(killed, rounds() / 20) << "hardly a kill met a folding, so little was tested";
}

TEST_F(DifferenceFaultTest, AFullDiskFailsTheCaptureOrTheFoldingAndNothingElse) {
  Child probe([] { check(::unshare(CLONE_NEWNS) == 0, "unshare"); });
  if (!probe.failure().empty()) GTEST_SKIP() << "mounting needs root";
  const TempDir dir;
  Child child([&] {
    mount_small(dir.path() + "/data", "size=64m");
    const Store small(dir.path() + "/data");
    const vmm::Kvm own = must(vmm::Kvm::open());
    test::capture(own, *boot_guest(own, kv_config()), small, "steady");
    const auto clone =
        must(snapshot::restore(own, small, named("steady"), {.loader = Loader::kMap})).sandbox;
    for (std::uint64_t i = 0; i < 8; ++i) {
      const std::byte value[] = {std::byte{9}};
      must(clone->machine().memory().write(kData + 2 * i * kUnitBytes, value));
    }
    const std::uint64_t used = used_blocks(small.path());
    must(snapshot::capture(own, *clone, small, named("diff"), options(0)));
    const std::uint64_t needed = used_blocks(small.path());
    check(needed - used < 16 * 10,
          "a difference of 8 units takes " + std::to_string(needed - used) + " pages");
    must(small.remove(named("diff")));
    for (std::uint64_t pages = used + 1; pages < needed; ++pages) {
      resize(small.path(), "size=" + std::to_string(pages * 4096));
      const std::vector<std::string> before = entries_of(small);
      const auto captured = snapshot::capture(own, *clone, small, named("diff"), options(0));
      check(!captured, "captured without room");
      check(captured.error().code == Code::kSystem, captured.error().context);
      check(entries_of(small) == before, "left behind after: " + captured.error().context);
    }
    resize(small.path(), "size=64m");
    const Captured whole = must(snapshot::capture(own, *clone, small, named("diff"), options(0)));
    const std::uint64_t with_both = used_blocks(small.path());
    resize(small.path(), "size=" + std::to_string((with_both + 20) * 4096));
    for (const Storage into : {Storage::kRaw, Storage::kPacked}) {
      const auto folded = snapshot::compact(small, named("diff"), into, {});
      check(!folded && folded.error().code == Code::kSystem, "folded without room");
      must(snapshot::verify(small, named("diff"), Depth::kDeep));
      check(used_blocks(small.path()) <= with_both + 2, "blocks were leaked");
    }
    resize(small.path(), "size=64m");
    must(snapshot::compact(small, named("diff"), Storage::kRaw, {}));
    check(must(OpenedSnapshot::open(small, named("diff"))).digest() == whole.digest, "digest");
    must(snapshot::verify(small, named("diff"), Depth::kDeep));
  });
  EXPECT_EQ(child.failure(), "");
}

}  // namespace
}  // namespace volt::test
