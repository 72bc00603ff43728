// Packing, unpacking, loading and pruning that are killed, told to stop, or out of room: nothing
// that is referenced is lost, and what is left is found.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "snapshot/archive.h"
#include "snapshot/prune.h"
#include "tests/snapshot/hot_order.h"
#include "tests/snapshot/packed.h"
#include "tests/snapshot/small_disk.h"
#include "vmm/identity.h"

namespace volt::test {
namespace {

using snapshot::Storage;

constexpr const char* kSteps[] = {"pack", "unpack", "prune", "create", "load", "relayout"};
constexpr std::size_t kStepCount = std::size(kSteps);

class StorageFaultTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::unique_ptr<Sandbox> guest = boot_kv();
    write_memory(*guest, kSpare, text_bytes(kMiB, 1));
    fill(store(), *guest);
  }
  // Two snapshots that share most, an archive of a third.
  void fill(const Store& into, Sandbox& guest) const {
    test::capture(kvm(), guest, into, "one");
    must(call(guest, Function::kPut, {5, 99}));
    must(snapshot::capture(kvm(), guest, into, named("two"), {.storage = Storage::kPacked}));
    write_memory(guest, kSpare + 2 * kMiB, text_bytes(kMiB, 2));
    test::capture(kvm(), guest, into, "three");
    const Fd file = must(open_at(AT_FDCWD, archive().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
    must(snapshot::save(into, named("three"), file, {}));
    must(into.remove(named("three")));
  }
  std::string archive() const { return dir_.path() + "/three.vsnap"; }

  Result<> take_step(const Store& in, std::size_t step, Sandbox* guest) const {
    const std::string name = kSteps[step];
    if (name == "pack") VOLT_TRY(snapshot::pack(in, named("one"), {}));
    if (name == "unpack") VOLT_TRY(snapshot::unpack(in, named("one"), 2));
    if (name == "prune") VOLT_TRY(snapshot::prune(in, {.dead_percent = 1}));
    if (name == "create") {
      VOLT_TRY(
          snapshot::capture(kvm(), *guest, in, named("new"),
                            {.if_taken = Store::IfTaken::kReplace, .storage = Storage::kPacked}));
    }
    if (name == "load") {
      const Fd file = VOLT_TRY(open_at(AT_FDCWD, archive().c_str(), O_RDONLY));
      VOLT_TRY(snapshot::load(in, named("three"), file,
                              {.storage = Storage::kPacked, .if_taken = Store::IfTaken::kReplace}));
    }
    if (name == "relayout") VOLT_TRY(snapshot::relayout(in, named("two"), {}));
    return {};
  }

  // What a step needs in order to have something to do.
  void prepare(const Store& in, std::size_t step) const {
    const std::string name = kSteps[step];
    if (name == "pack" || name == "prune") unpack(in, "one");
    if (name == "unpack") pack(in, "one");
    if ((name == "load" || name == "create") && in.exists(named("three"))) {
      must(in.remove(named("three")));
    }
    if (name == "relayout") {
      unpack(in, "one");  // so that nobody shares the pack of two
      for (const char* other : {"three", "new"}) {
        if (in.exists(named(other))) must(in.remove(named(other)));
      }
      keep_hot_order(in, "two", against_the_layout(in, "two"));
    }
  }
  static std::vector<std::uint64_t> against_the_layout(const Store& in, const char* name) {
    const auto opened = must(snapshot::OpenedSnapshot::open(in, named(name)));
    std::vector<std::uint64_t> entries(opened.index().entry_count());
    for (std::uint64_t i = 0; i < entries.size(); ++i) entries[i] = i;
    std::ranges::sort(entries, std::greater<>(),
                      [&](std::uint64_t i) { return must(opened.units().at(i)).offset; });
    return entries;
  }

 private:
  TempDir dir_{"/dev/shm"};
};

TEST_F(StorageFaultTest, AKillAtAnyMomentLosesNothingAndPruneFindsWhatIsLeft) {
  const std::uint32_t seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const int rounds = long_run() ? 1'000 : 100;
  std::uint64_t span_ns[kStepCount] = {};
  int interrupted = 0;
  for (int round = -static_cast<int>(kStepCount); round < rounds && !HasFailure(); ++round) {
    const std::size_t step =
        static_cast<std::size_t>(round + static_cast<int>(kStepCount)) % kStepCount;
    SCOPED_TRACE(testing::Message() << "round " << round << ": " << kSteps[step]);
    prepare(store(), step);
    Child child([&](const Child& self) {
      std::unique_ptr<Sandbox> guest;
      if (std::string_view(kSteps[step]) == "create") guest = boot_kv();
      self.say("b");
      must(take_step(store(), step, guest.get()));
    });
    ASSERT_EQ(child.next(), 'b');
    const std::uint64_t began = vmm::monotonic_clock_ns();
    if (round < 0) {
      EXPECT_EQ(child.failure(), "");
      span_ns[step] = vmm::monotonic_clock_ns() - began;
      continue;
    }
    const std::uint64_t delay_ns = random() % span_ns[step];
    const timespec delay = {.tv_sec = static_cast<time_t>(delay_ns / 1'000'000'000),
                            .tv_nsec = static_cast<long>(delay_ns % 1'000'000'000)};
    child.hears(&delay);
    child.kill(SIGKILL);
    EXPECT_EQ(child.failure(), "");
    if (child.was_killed() && !must(snapshot::find_strays(store())).empty()) ++interrupted;
    expect_ok(verify_everything(store()));
    EXPECT_TRUE(store().exists(named("one")));
    EXPECT_TRUE(store().exists(named("two")));
    if (round % 3 == 0) {
      expect_ok(snapshot::prune(store(), {.dead_percent = 1}));
      EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
      expect_ok(verify_everything(store()));
    }
  }
  EXPECT_GT(interrupted, rounds / 20) << "hardly a kill met anything, so little was tested";
  for (const char* name : {"one", "two"}) {
    EXPECT_EQ(memory_of(*restore(name, Loader::kCopy)).size(), kSmallRam);
  }
  EXPECT_EQ(scan(*restore("one", Loader::kCopy)), seeded_scan());
}

TEST_F(StorageFaultTest, AStepThatIsToldToStopLeavesEverythingAsItWas) {
  for (std::size_t step = 0; step < kStepCount; ++step) {
    if (std::string_view(kSteps[step]) == "prune") continue;  // below
    SCOPED_TRACE(kSteps[step]);
    prepare(store(), step);
    const auto before = entries_of(store());
    const auto packs_before = packs_of(store());
    Child child([&] {
      const std::unique_ptr<Sandbox> guest = boot_kv();
      vmm::stop_on_signals();
      check(::raise(SIGINT) == 0, "raise");
      const Error error = must_fail(take_step(store(), step, guest.get()));
      check(error.code == Code::kInterrupted, error.context);
    });
    EXPECT_EQ(child.failure(), "");
    EXPECT_EQ(entries_of(store()), before);
    EXPECT_EQ(packs_of(store()), packs_before);
    EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
    expect_ok(verify_everything(store()));
  }
}

TEST_F(StorageFaultTest, ASignalAtAnyMomentLeavesNothingBehind) {
  std::mt19937 random(std::random_device{}());
  for (int round = 0; round < 24 && !HasFailure(); ++round) {
    const auto step = static_cast<std::size_t>(round) % kStepCount;
    SCOPED_TRACE(testing::Message() << "round " << round << ": " << kSteps[step]);
    prepare(store(), step);
    Child child([&](const Child& self) {
      const std::unique_ptr<Sandbox> guest = boot_kv();
      vmm::stop_on_signals();
      self.say("b");
      const Result<> done = take_step(store(), step, guest.get());
      check(done || done.error().code == Code::kInterrupted, done ? "" : done.error().context);
    });
    ASSERT_EQ(child.next(), 'b');
    const timespec delay = {.tv_sec = 0, .tv_nsec = static_cast<long>(random() % 15'000'000)};
    child.hears(&delay);
    child.kill(SIGTERM);
    EXPECT_EQ(child.failure(), "");
    EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
    expect_ok(verify_everything(store()));
  }
}

TEST_F(StorageFaultTest, ADiskThatIsFullAtAnyPointLeavesEverythingAsItWas) {
  if (!may_mount()) GTEST_SKIP() << "mounting needs root";
  Child child([this] {
    const Store small(store().path() + "/disk");
    mount_small(small.path(), "size=64m");
    const std::unique_ptr<Sandbox> guest = boot_kv();
    write_memory(*guest, kSpare, text_bytes(kMiB, 1));
    fill(small, *guest);
    write_memory(*guest, kSpare + 3 * kMiB, random_bytes(kMiB, 3));
    for (const std::size_t step : {0U, 1U, 3U, 4U, 5U}) {
      prepare(small, step);
      const auto before = entries_of(small);
      const auto packs_before = packs_of(small);
      const std::uint64_t used = used_blocks(small.path());
      int failed = 0;
      for (std::uint64_t pages = 1;; pages += pages < 12 ? 1 : 97) {
        resize(small.path(), "size=" + std::to_string((used + pages) * 4096));
        const Result<> done = take_step(small, step, guest.get());
        if (done) break;
        ++failed;
        const std::string what = std::string(kSteps[step]) + " with " + std::to_string(pages) +
                                 " pages: " + done.error().context;
        check(done.error().code == Code::kSystem, what);
        check(entries_of(small) == before, "left behind: " + what);
        check(packs_of(small) == packs_before, "packs left behind: " + what);
        check(must(snapshot::find_strays(small)).empty(), "strays: " + what);
        check(used_blocks(small.path()) <= used + 1, "blocks leaked: " + what);
        must(verify_everything(small));
      }
      check(failed > 10, "the disk was never full");
      resize(small.path(), "size=64m");
      must(verify_everything(small));
    }
  });
  EXPECT_EQ(child.failure(), "");
}

}  // namespace
}  // namespace volt::test
