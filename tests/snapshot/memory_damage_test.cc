// Damage to the memory file: found by whoever reads the damaged unit, and never shown to a guest by
// a loader that checks.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using formats::IndexEntry;
using snapshot::Depth;
using snapshot::kMemoryFile;
using snapshot::load_memory;
using snapshot::LoadedMemory;
using snapshot::OpenedSnapshot;

class MemoryDamageTest : public EveryLoaderTest {
 protected:
  void SetUp() override {
    EveryLoaderTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::unique_ptr<Sandbox> guest = boot_kv();
    // Zeros in the middle of the working set: less than a gap, so loader map shows the file there.
    const std::vector<std::byte> zeros(2 * kUnitBytes);
    must(guest->machine().memory().write(kZeroUnit * kUnitBytes, zeros));
    capture(*guest, "kv");
    captured_ = memory_of(*guest);
    const OpenedSnapshot opened = open();
    for (std::uint64_t i = 0; i < opened.index().entry_count(); ++i) {
      entries_.push_back(must(opened.index().at(i)));
    }
  }

  static constexpr std::uint64_t kZeroUnit = 7 * kMiB / kUnitBytes;

  OpenedSnapshot open() const { return must(OpenedSnapshot::open(store(), named("kv"))); }
  Result<snapshot::Verified> verify() const {
    return snapshot::verify(store(), named("kv"), Depth::kDeep);
  }
  LoadedMemory load(Loader loader) const {
    return must(load_memory(loader, std::make_shared<const OpenedSnapshot>(open())));
  }
  Result<snapshot::Restored> restore_checked() const {
    return snapshot::restore(
        kvm(), store(), named("kv"),
        {.loader = GetParam(), .verify = snapshot::RestoreOptions::Verify::kEverythingFirst});
  }
  std::string memory_file() const { return file("kv", kMemoryFile); }
  const std::vector<IndexEntry>& entries() const { return entries_; }
  const std::vector<std::byte>& captured() const { return captured_; }

  // Some bit of a unit, another one in each.
  static std::uint64_t bit_in(const IndexEntry& entry) {
    return entry.place * 8 + entry.unit * 7'919 % (kUnitBytes * 8);
  }

 private:
  std::vector<std::byte> captured_;
  std::vector<IndexEntry> entries_;
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, MemoryDamageTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

// The loaders that check each unit as it comes; map does not.
class CheckingLoaderTest : public MemoryDamageTest {};

INSTANTIATE_TEST_SUITE_P(CheckingLoader, CheckingLoaderTest,
                         testing::Values(Loader::kUffd, Loader::kCopy), loader_title);

std::string unit_text(const IndexEntry& entry) {
  return "memory: unit " + std::to_string(entry.unit) + " at file offset " +
         std::to_string(entry.place) + ": ";
}

TEST_P(MemoryDamageTest, AFlippedBitInAnyUnitIsFoundByVerifyAndByACheckedRestore) {
  ASSERT_GT(entries().size(), 30U);
  EXPECT_EQ(must(verify()).units, entries().size());
  for (const IndexEntry& entry : entries()) {
    flip_bit(memory_file(), bit_in(entry));
    for (const Error& error : {must_fail(verify()), must_fail(restore_checked())}) {
      EXPECT_EQ(error.code, Code::kCorrupt);
      EXPECT_TRUE(contains(error.context, unit_text(entry))) << error.context;
    }
    flip_bit(memory_file(), bit_in(entry));
  }
  expect_ok(verify());
}

// Each unit by itself: it cannot be had, and its neighbours can.
TEST_P(CheckingLoaderTest, AFlippedBitInAnyUnitNeverReachesAGuest) {
  for (const IndexEntry& entry : entries()) {
    flip_bit(memory_file(), bit_in(entry));
    if (GetParam() == Loader::kCopy) {
      const Error error = must_fail(try_restore("kv", Loader::kCopy));
      EXPECT_EQ(error.code, Code::kCorrupt);
      EXPECT_TRUE(contains(error.context, unit_text(entry))) << error.context;
    } else {
      const LoadedMemory loaded = load(Loader::kUffd);
      std::byte one[1];
      const std::uint64_t address = entry.unit * kUnitBytes;
      EXPECT_EQ(must_fail(loaded.memory.read(address + 4'096, one)).code, Code::kPageLost);
      EXPECT_EQ(must_fail(loaded.memory.read(address, one)).code, Code::kPageLost);
      ASSERT_TRUE(loaded.pager.server()->failure());
      EXPECT_TRUE(contains(loaded.pager.server()->failure()->context, unit_text(entry)));
      EXPECT_EQ(loaded.pager.server()->counts().units_failed, 1U);
      const IndexEntry& neighbour = &entry == &entries()[0] ? entries()[1] : entries()[0];
      must(loaded.memory.read(neighbour.unit * kUnitBytes, one));
      EXPECT_EQ(one[0], captured()[neighbour.place]);
    }
    flip_bit(memory_file(), bit_in(entry));
  }
}

// A guest that needs the page stops; one that does not goes on; nobody ever sees the wrong bytes.
TEST_P(MemoryDamageTest, AGuestStopsAtADamagedPageWithThePagersReason) {
  const auto in_working_set =
      std::ranges::find(entries(), std::uint64_t{kZeroUnit + 4}, &IndexEntry::unit);
  ASSERT_NE(in_working_set, entries().end());
  flip_bit(memory_file(), bit_in(*in_working_set));
  if (GetParam() == Loader::kUffd) {
    const std::unique_ptr<Sandbox> clone = restore("kv");
    health(*clone);
    const Error error = must_fail(call(*clone, Function::kScan, {0, kPages}));
    EXPECT_EQ(error.code, Code::kPageLost);
    EXPECT_TRUE(contains(error.context, unit_text(*in_working_set))) << error.context;
    EXPECT_EQ(must_fail(snapshot::capture(kvm(), *clone, store(), named("new"), {})).code,
              Code::kPageLost);
    EXPECT_FALSE(store().exists(named("new")));
  } else if (GetParam() == Loader::kCopy) {
    EXPECT_EQ(must_fail(try_restore("kv", Loader::kCopy)).code, Code::kCorrupt);
  } else {
    // What map costs: it shows what the file holds, unless it was told to check first.
    const std::unique_ptr<Sandbox> clone = restore("kv");
    EXPECT_NE(must(call(*clone, Function::kScan, {0, kPages})).checksum,
              clone->facts().guest.working_set_checksum());
    EXPECT_EQ(must_fail(restore_checked()).code, Code::kCorrupt);
  }
}

// What the index calls zero: within an extent (which map shows) and in a gap between extents.
TEST_P(MemoryDamageTest, AByteWhereTheIndexSaysZeroIsFoundAndNeverReachesACheckedGuest) {
  const std::uint64_t places[] = {kZeroUnit * kUnitBytes, (kZeroUnit + 2) * kUnitBytes - 1,
                                  14 * kMiB + 12'345, kSmallRam - 1};
  for (const std::uint64_t place : places) {
    ASSERT_EQ(captured()[place], std::byte{0});
    flip_bit(memory_file(), place * 8 + 3);
    for (const Error& error : {must_fail(verify()), must_fail(restore_checked())}) {
      EXPECT_EQ(error.code, Code::kCorrupt);
      EXPECT_TRUE(contains(error.context, "memory: byte " + std::to_string(place) + ": not zero"))
          << error.context;
    }
    if (GetParam() != Loader::kMap) {
      std::byte one[1];
      must(load(GetParam()).memory.read(place, one));
      EXPECT_EQ(one[0], std::byte{0});
    }
    flip_bit(memory_file(), place * 8 + 3);
  }
  EXPECT_EQ(memory_of(*restore("kv")), captured());
}

// Blocks of an index too large for this are checked when they are used: tests/formats.
TEST_P(CheckingLoaderTest, ADamagedBlockOfASmallIndexIsFoundBeforeAnythingIsRestored) {
  flip_bit(file("kv", snapshot::kIndexFile), (formats::kIndexHeadBytes + 40) * 8);
  const Error error = must_fail(try_restore("kv", GetParam()));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "index: block 0: sum: ")) << error.context;
  EXPECT_EQ(must_fail(try_restore("kv", Loader::kMap)).code, Code::kCorrupt);
}

}  // namespace
}  // namespace volt::test
