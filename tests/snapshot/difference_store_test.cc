// Differences in the store: what they take on disk, what prune leaves alone, and which captures
// become full though a difference was asked for.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "snapshot/difference.h"
#include "snapshot/private_pages.h"
#include "snapshot/prune.h"
#include "snapshot/state_codec.h"
#include "snapshot/usage.h"
#include "tests/snapshot/difference.h"
#include "vmm/identity.h"
#include "vmm/micro_cpu.h"

namespace volt::test {
namespace {

using snapshot::Usage;
using snapshot::UsageCount;

class DifferenceStoreTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) first_ = capture(*boot_kv(), "first");
  }
  const Captured& first() const { return first_; }

  // A difference from `parent` with `units` units of its own from `unit` of the working set on.
  Captured diff(std::string_view parent, std::string_view name, std::uint64_t unit,
                std::uint64_t units, Storage storage = Storage::kRaw) {
    const bool raw = must(OpenedSnapshot::open(store(), named(parent))).is_raw();
    const std::unique_ptr<Sandbox> clone = restore(parent, raw ? Loader::kMap : Loader::kCopy);
    for (std::uint64_t i = unit; i < unit + units; ++i) {
      const auto value = static_cast<std::byte>(static_cast<std::uint64_t>(name[0]) + i);
      must(clone->machine().memory().write(kData + i * kUnitBytes,
                                           std::vector<std::byte>(kUnitBytes, value)));
    }
    return must(snapshot::capture(kvm(), *clone, store(), named(name),
                                  {.mode = CaptureMode::kDiff, .storage = storage}));
  }
  Usage usage(std::string_view name) {
    const UsageCount count = must(snapshot::count_usage(store()));
    return must(count.of(must(OpenedSnapshot::open(store(), named(name)))));
  }

 private:
  Captured first_;
};

TEST_F(DifferenceStoreTest, SharedAndUniqueBytesOfLayersAddUp) {
  const std::uint64_t all = first().stored_bytes;
  EXPECT_EQ(usage("first").unique_bytes(), all);
  diff("first", "a", 0, 4);
  diff("a", "b", 2, 4);
  EXPECT_EQ(usage("first").stored_bytes, all);
  EXPECT_EQ(usage("first").shared_bytes, all - 4 * kUnitBytes) << "but what `a` has anew";
  EXPECT_EQ(usage("a").stored_bytes, all);
  EXPECT_EQ(usage("a").unique_bytes(), 2 * kUnitBytes) << "which `b` has anew";
  EXPECT_EQ(usage("b").unique_bytes(), 4 * kUnitBytes);

  // A parent that is gone uses nothing: two of its units only `a` has now.
  must(store().remove(named("first")));
  EXPECT_EQ(usage("a").unique_bytes(), 4 * kUnitBytes);
  must(store().remove(named("b")));
  EXPECT_EQ(usage("a").unique_bytes(), all);
}

TEST_F(DifferenceStoreTest, AFoldedSnapshotIsNotTakenForTheLayerItWasBefore) {
  diff("first", "a", 0, 4);
  diff("a", "b", 8, 2);
  must(snapshot::compact(store(), named("a"), Storage::kRaw, {}));
  diff("a", "c", 8, 3);  // of its new file, which is a layer of the same name
  EXPECT_EQ(usage("a").shared_bytes, first().stored_bytes - 3 * kUnitBytes);
  EXPECT_EQ(usage("c").unique_bytes(), 3 * kUnitBytes);
  EXPECT_EQ(usage("b").unique_bytes(), 6 * kUnitBytes) << "its own, and the old layer's";
  for (const char* name : {"first", "a", "b", "c"}) {
    expect_ok(snapshot::verify(store(), named(name), Depth::kDeep));
  }
}

TEST_F(DifferenceStoreTest, PruneLeavesLayersThatAreUsedAndRemovesWhatIsLeft) {
  diff("first", "a", 0, 4);
  diff("a", "b", 2, 4, Storage::kPacked);
  // As left by foldings that were killed.
  std::filesystem::create_hard_link(file("first", kMemoryFile),
                                    file("first", ("layer-" + std::string(64, '0')).c_str()));
  write_file(file("a", "memory.new"), {});
  must(store().remove(named("first")));
  EXPECT_EQ(must(snapshot::find_strays(store())).size(), 1U);
  const snapshot::Pruned pruned = must(snapshot::prune(store(), {.dead_percent = 1}));
  EXPECT_EQ(pruned.removed.size(), 1U);
  for (const char* name : {"a", "b"}) {
    expect_ok(snapshot::verify(store(), named(name), Depth::kDeep));
  }
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

TEST_F(DifferenceStoreTest, APackThatIsWrittenAnewLeavesLayersWhereTheyAre) {
  diff("first", "a", 0, 6, Storage::kPacked);
  diff("a", "b", 0, 3, Storage::kPacked);  // half of the pack of `a` is its alone
  must(store().remove(named("a")));
  must(snapshot::prune(store(), {.dead_percent = 1}));
  const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("b")));
  const auto layers = std::ranges::count(
      opened.units().containers(), formats::Container::Kind::kLayer, &formats::Container::kind);
  EXPECT_EQ(layers, 1) << "the raw memory of `first` is not packed by a prune";
  expect_ok(snapshot::verify(store(), named("b"), Depth::kDeep));
}

TEST_F(DifferenceStoreTest, ALayerThatIsCutShortIsFoundAndNamed) {
  diff("first", "a", 0, 4);
  const std::string layer = "layer-" + formats::to_hex(first().digest);
  cut_file(file("a", layer.c_str()), kData + 6 * kUnitBytes);
  const Error error = must_fail(snapshot::verify(store(), named("a"), Depth::kDeep));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, layer)) << error.context;
  EXPECT_EQ(must_fail(try_restore("a", Loader::kCopy)).code, Code::kCorrupt);
}

TEST_F(DifferenceStoreTest, AMissingLayerIsNamed) {
  diff("first", "a", 0, 4);
  const std::string layer = "layer-" + formats::to_hex(first().digest);
  std::filesystem::remove(file("a", layer.c_str()));
  const Error error = must_fail(try_restore("a", Loader::kCopy));
  EXPECT_TRUE(contains(error.context, layer)) << error.context;
}

TEST_F(DifferenceStoreTest, BothWaysToFindPagesGiveTheSame) {
  if (!snapshot::page_scan_usable()) GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  const std::unique_ptr<Sandbox> clone = restore("first");
  must(call(*clone, Function::kWrite, {3, 40, kSeed + 1}));
  std::vector<Captured> captured;
  for (const auto finder : {snapshot::PageFinder::kScan, snapshot::PageFinder::kRead}) {
    captured.push_back(must(snapshot::capture(kvm(), *clone, store(), named("diff"),
                                              {.if_taken = Store::IfTaken::kReplace,
                                               .mode = CaptureMode::kDiff,
                                               .page_finder = finder})));
    expect_ok(snapshot::verify(store(), named("diff"), Depth::kDeep));
  }
  EXPECT_EQ(captured[0].memory_digest, captured[1].memory_digest);
  EXPECT_EQ(captured[0].units.changed, captured[1].units.changed);
  EXPECT_EQ(captured[0].units.equal, captured[1].units.equal);
  EXPECT_EQ(captured[0].stored_bytes, captured[1].stored_bytes);
}

TEST_F(DifferenceStoreTest, TooManyLayersGiveAFullCaptureThatBeginsAnew) {
  must(snapshot::capture(kvm(), *boot_echo(), store(), named("link"),
                         {.if_taken = Store::IfTaken::kReplace, .unit_bytes = 4096}));
  std::unique_ptr<Sandbox> link = restore("link");
  for (std::size_t layers = 1; layers <= snapshot::kMaxLayers; ++layers) {
    const std::byte value[] = {std::byte{1}};
    must(link->machine().memory().write(12 * kMiB + layers * 4096, value));
    const Captured captured =
        must(snapshot::capture(kvm(), *link, store(), named("link"),
                               {.if_taken = Store::IfTaken::kReplace, .mode = CaptureMode::kDiff}));
    const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("link")));
    if (layers < snapshot::kMaxLayers) {
      ASSERT_EQ(captured.mode, CaptureMode::kDiff);
      ASSERT_EQ(opened.containers().size(), layers + 1);
      link = restore("link", Loader::kCopy);
    } else {
      EXPECT_EQ(captured.mode, CaptureMode::kFull);
      EXPECT_TRUE(contains(captured.full_because, "compact")) << captured.full_because;
      EXPECT_TRUE(opened.is_raw());
    }
  }
  EXPECT_EQ(memory_of(*restore("link")), memory_of(*link));
  expect_ok(snapshot::verify(store(), named("link"), Depth::kDeep));
}

// As a restore with another's pager will make it.
TEST_F(DifferenceStoreTest, MemoryThatAForeignHandlerFilledIsCapturedInFull) {
  const auto parent =
      std::make_shared<const OpenedSnapshot>(must(OpenedSnapshot::open(store(), named("first"))));
  std::unique_ptr<vmm::Machine> machine = must(vmm::Machine::build(kvm(), 1));
  snapshot::LoadedMemory loaded = must(load_memory(Loader::kCopy, parent));
  must(machine->attach_memory(std::move(loaded.memory), loaded.attach));
  const auto& resume = parent->state().resume();
  machine->start(vmm::micro_regs(resume.entry(), resume.stack_top(), resume.argument()),
                 snapshot::sregs_from(parent->state().vcpus(0).special()));
  machine->exchange().set_identity(must(vmm::fresh_identity(must(machine->tsc_khz()))));
  Sandbox sandbox(
      std::move(loaded.pager), std::move(machine),
      Sandbox::Facts{
          .guest = parent->manifest().guest(), .resume = parent->state().resume(), .parent = {}},
      Sandbox::Origin{.memory = Sandbox::Origin::Memory::kForeign, .snapshot = parent});
  const Captured captured = must(
      snapshot::capture(kvm(), sandbox, store(), named("foreign"), {.mode = CaptureMode::kDiff}));
  EXPECT_EQ(captured.mode, CaptureMode::kFull);
  EXPECT_TRUE(contains(captured.full_because, "handler")) << captured.full_because;
  EXPECT_EQ(captured.memory_digest, first().memory_digest);
  EXPECT_EQ(memory_of(*restore("foreign")), memory_of(sandbox));
}

TEST_F(DifferenceStoreTest, ACloneThatLostAPageIsNotCaptured) {
  if (const auto usable = snapshot::uffd_usable(); !usable) VOLT_HOST_UNABLE(usable.error());
  const std::unique_ptr<Sandbox> clone = restore("first", Loader::kUffd);
  flip_bit(file("first", kMemoryFile), (kData + 100) * 8);
  std::byte one[1] = {};
  EXPECT_EQ(must_fail(clone->machine().memory().write(kData, one)).code, Code::kPageLost);
  EXPECT_EQ(must_fail(snapshot::capture(kvm(), *clone, store(), named("diff"),
                                        {.mode = CaptureMode::kDiff}))
                .code,
            Code::kPageLost);
  EXPECT_TRUE(must(snapshot::find_strays(store())).empty());
}

}  // namespace
}  // namespace volt::test
