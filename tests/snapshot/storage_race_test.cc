// Several processes at one store: restores beside packing, unpacking, pruning and removing.
#include <gtest/gtest.h>

#include "snapshot/prune.h"
#include "tests/snapshot/child.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

class StorageRaceTest : public SnapshotTest {};

bool clean(const Error& error) {
  return error.code == Code::kBusy || error.code == Code::kNotFound;
}

// Works, or says that somebody else is at it.
template <typename T>
void try_to(const Result<T>& result) {
  check(result || clean(result.error()), result ? "" : result.error().context);
}

TEST_F(StorageRaceTest, ARestoreWorksWhileOthersPackUnpackAndPrune) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture(*guest, "kv");
  must(snapshot::capture(kvm(), *guest, store(), named("other"),
                         {.storage = snapshot::Storage::kPacked}));
  const int rounds = long_run() ? 300 : 30;
  const auto change = [&] {
    for (int round = 0; round < rounds; ++round) {
      try_to(snapshot::pack(store(), named("kv"), {}));
      try_to(snapshot::unpack(store(), named("kv"), 1));
    }
  };
  Child one(change);
  Child two(change);
  Child pruner([&] {
    for (int round = 0; round < rounds; ++round) {
      try_to(snapshot::prune(store(), {.dead_percent = 1}));
    }
  });
  int worked = 0;
  while (one.runs() || two.runs() || pruner.runs()) {
    const Loader loader = worked % 2 == 0 ? Loader::kAuto : Loader::kCopy;
    const auto restored = try_restore("kv", loader);
    // Under `auto` the choice is made for the files that were found, and they stay open.
    ASSERT_TRUE(restored) << restored.error().context;
    ASSERT_EQ(scan(*restored->sandbox), seeded_scan());
    expect_ok(verify_deep(store(), "kv"));
    ++worked;
  }
  EXPECT_EQ(one.failure(), "");
  EXPECT_EQ(two.failure(), "");
  EXPECT_EQ(pruner.failure(), "");
  EXPECT_GT(worked, 5);
  expect_ok(verify_everything(store()));
  must(snapshot::prune(store(), {}));
  EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
}

TEST_F(StorageRaceTest, SnapshotsThatSharePacksComeAndGoWithoutHarmToEachOther) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture(*guest, "steady");
  pack(store(), "steady");
  const int rounds = long_run() ? 300 : 30;
  const auto come_and_go = [&](const std::string& name) {
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> mine = boot_guest(own, kv_config());
    for (int round = 0; round < rounds; ++round) {
      write_memory(*mine, kSpare, random_bytes(kUnitBytes, static_cast<std::uint32_t>(round)));
      const auto made = snapshot::capture(own, *mine, store(), named(name),
                                          {.storage = snapshot::Storage::kPacked});
      try_to(made);
      if (made) must(verify_deep(store(), name));
      if (made) must(store().remove(named(name)));
    }
  };
  Child one([&] { come_and_go("one"); });
  Child two([&] { come_and_go("two"); });
  Child pruner([&] {
    for (int round = 0; round < rounds; ++round) try_to(snapshot::prune(store(), {}));
  });
  while (one.runs() || two.runs()) expect_ok(verify_deep(store(), "steady"));
  EXPECT_EQ(one.failure(), "");
  EXPECT_EQ(two.failure(), "");
  EXPECT_EQ(pruner.failure(), "");
  must(snapshot::prune(store(), {}));
  EXPECT_EQ(must(snapshot::find_strays(store())), std::vector<std::string>{});
  EXPECT_EQ(packs_of(store()).size(), 1U);
}

}  // namespace
}  // namespace volt::test
