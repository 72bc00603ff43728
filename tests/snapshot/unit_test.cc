// Units of every size: what is captured in them comes back under each loader.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::Captured;
using snapshot::Depth;
using snapshot::kMemoryFile;
using snapshot::OpenedSnapshot;
using snapshot::Verified;

constexpr std::uint64_t kKiB = 1 << 10;

Captured capture_in(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                    std::string_view name, std::uint64_t unit_bytes) {
  return must(snapshot::capture(kvm, sandbox, store, named(name), {.unit_bytes = unit_bytes}));
}

class UnitTest : public EveryLoaderTest {};

INSTANTIATE_TEST_SUITE_P(EveryLoader, UnitTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(UnitTest, AGuestIsTheSameInUnitsOfAnySize) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> before = memory_of(*guest);
  for (const std::uint64_t unit : {4 * kKiB, 8 * kKiB, 64 * kKiB, kMiB, 2 * kMiB}) {
    SCOPED_TRACE(unit);
    capture_in(kvm(), *guest, store(), "kv", unit);
    const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("kv")));
    EXPECT_EQ(opened.manifest().memory().unit_bytes(), unit);
    EXPECT_EQ(opened.index().unit_bytes(), unit);
    const Verified verified = must(snapshot::verify(store(), named("kv"), Depth::kDeep));
    EXPECT_EQ(verified.units * unit, opened.manifest().memory().stored_bytes());

    EXPECT_EQ(memory_of(*restore("kv")), before);
    const std::unique_ptr<Sandbox> clone = restore("kv");
    EXPECT_EQ(scan(*clone), seeded_scan());
    must(call(*clone, Function::kPut, {5, 99}));
    capture_in(kvm(), *clone, store(), "child", unit);
    EXPECT_EQ(reply_as<std::uint64_t>(must(call(*restore("child"), Function::kGet, {5}))), 99U);
    must(store().remove(named("child")));
    must(store().remove(named("kv")));
  }
}

TEST_P(UnitTest, ADamagedUnitOfAnySizeIsFound) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  for (const std::uint64_t unit : {4 * kKiB, 2 * kMiB}) {
    SCOPED_TRACE(unit);
    capture_in(kvm(), *guest, store(), "kv", unit);
    const std::uint64_t last = [&] {
      const OpenedSnapshot opened = must(OpenedSnapshot::open(store(), named("kv")));
      return must(opened.index().at(opened.index().entry_count() - 1)).place + unit - 1;
    }();
    flip_bit(file("kv", kMemoryFile), last * 8);
    EXPECT_EQ(must_fail(snapshot::verify(store(), named("kv"), Depth::kDeep)).code, Code::kCorrupt);
    if (GetParam() == Loader::kCopy) {
      EXPECT_EQ(must_fail(try_restore("kv", Loader::kCopy)).code, Code::kCorrupt);
    } else if (GetParam() == Loader::kUffd) {
      std::byte one[1];
      EXPECT_EQ(must_fail(restore("kv")->machine().memory().read(last, one)).code, Code::kPageLost);
    }
    must(store().remove(named("kv")));
  }
}

class UnitSizeTest : public SnapshotTest {};

TEST_F(UnitSizeTest, SmallUnitsStoreLessOfTheSameMemory) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const Captured small = capture_in(kvm(), *guest, store(), "small", 4 * kKiB);
  const Captured large = capture_in(kvm(), *guest, store(), "large", 2 * kMiB);
  EXPECT_LT(small.stored_bytes, large.stored_bytes);
  EXPECT_EQ(small.apparent_bytes, large.apparent_bytes);
  EXPECT_NE(small.memory_digest, large.memory_digest) << "a digest names units, so their size too";
}

TEST_F(UnitSizeTest, OtherSizesAreRefusedAndLeaveNothing) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  for (const std::uint64_t unit : {std::uint64_t{0}, std::uint64_t{1}, 2 * kKiB, 12 * kKiB,
                                   64 * kKiB + 1, 4 * kMiB, ~std::uint64_t{0}}) {
    const Error error =
        must_fail(snapshot::capture(kvm(), *guest, store(), named("echo"), {.unit_bytes = unit}));
    EXPECT_EQ(error.code, Code::kInvalid) << unit;
    EXPECT_TRUE(contains(error.context, "unit size " + std::to_string(unit))) << error.context;
  }
  EXPECT_TRUE(entries_of(store()).empty());
  health(*guest);
}

}  // namespace
}  // namespace volt::test
