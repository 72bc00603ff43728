// The whole path, over and over: what a long-lived host process must not lose on the way is
// descriptors, threads, mappings and memory.
#include <fstream>

#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

// ASan keeps 256 MiB of what was freed, which a thousand rounds would take for lost.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=8";
}

namespace volt::test {
namespace {

// The allocator may keep a few; a sanitizer's takes another one for every few rounds.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kAllocatorsMappings = 64;
#else
constexpr std::size_t kAllocatorsMappings = 8;
#endif

struct Footprint {
  std::size_t descriptors;
  std::size_t threads;
  std::size_t mappings;
  std::uint64_t resident_bytes;
};

Footprint footprint() {
  std::ifstream maps("/proc/self/maps"), statm("/proc/self/statm");
  std::size_t mappings = 0;
  for (std::string line; std::getline(maps, line);) ++mappings;
  std::uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  return {must(directory_entries("/proc/self/fd")).size(),
          must(directory_entries("/proc/self/task")).size(), mappings, resident * 4096};
}

class SoakTest : public SnapshotTest {
 protected:
  // Boots, captures, restores under every loader, changes, captures the clone, removes.
  void round(std::uint64_t number) const {
    capture(*boot_kv(), "soak");
    for (const Loader loader : {Loader::kMap, Loader::kUffd, Loader::kCopy}) {
      const std::unique_ptr<Sandbox> clone = restore("soak", loader);
      EXPECT_EQ(scan(*clone), seeded_scan());
      expect_ok(call(*clone, Function::kPut, {number % kPages, number}));
      capture(*clone, "soak-child");
      health(*restore("soak-child", loader));
      must(store().remove(named("soak-child")));
    }
    must(store().remove(named("soak")));
  }
};

TEST_F(SoakTest, NothingIsLostHoweverOftenTheWholePathIsTaken) {
  const std::uint64_t rounds = long_run() ? 1'000 : 10;
  for (std::uint64_t i = 0; i < 3; ++i) round(i);  // what is kept for good is there by now
  const Footprint before = footprint();
  for (std::uint64_t i = 0; i < rounds; ++i) round(i);
  const Footprint after = footprint();
  EXPECT_EQ(after.descriptors, before.descriptors);
  EXPECT_EQ(after.threads, before.threads);
  EXPECT_LE(after.mappings, before.mappings + kAllocatorsMappings + rounds / 20)
      << "a leaked clone has several";
  EXPECT_LE(after.resident_bytes, before.resident_bytes + 32 * kMiB)
      << "a leaked clone would keep its 2 MiB of working set each round";
  EXPECT_TRUE(entries_of(store()).empty());
}

}  // namespace
}  // namespace volt::test
