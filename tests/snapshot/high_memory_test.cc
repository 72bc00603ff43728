// A guest with RAM on both sides of the hole below 4 GiB: two regions in one memory file.
#include <gtest/gtest.h>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kLowEnd = guest_abi::kLowRamEnd;
constexpr std::uint64_t kHighBase = guest_abi::kHighRamBase;
constexpr std::uint64_t kHighEnd = kHighBase + kGiB;

// Both sides of the border and the ends of both regions; none of it is the guest's own.
constexpr std::uint64_t kMarked[] = {kGiB + 3,    2 * kGiB,          kLowEnd - 8,
                                     kHighBase,   kHighBase + 4'097, kHighBase + kGiB / 2,
                                     kHighEnd - 8};

class HighMemoryTest : public EveryLoaderTest {
 protected:
  std::unique_ptr<Sandbox> boot_marked() const {
    vmm::BootConfig config = kv_config();
    config.ram_bytes = 4 * kGiB;
    std::unique_ptr<Sandbox> guest = boot_guest(kvm(), config);
    for (const std::uint64_t address : kMarked) {
      const std::uint64_t mark[1] = {~address};
      must(guest->machine().memory().write(address, std::as_bytes(std::span(mark))));
    }
    return guest;
  }
  static void expect_marks(const Sandbox& sandbox) {
    for (const std::uint64_t address : kMarked) {
      std::uint64_t mark[1] = {};
      must(sandbox.machine().memory().read(address, std::as_writable_bytes(std::span(mark))));
      EXPECT_EQ(mark[0], ~address) << "at " << address;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(EveryLoader, HighMemoryTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(HighMemoryTest, BytesOnBothSidesOfTheHoleComeBackWhereTheyWere) {
  const snapshot::Captured first = capture(*boot_marked(), "first");
  EXPECT_EQ(first.apparent_bytes, 4 * kGiB);
  EXPECT_LT(first.stored_bytes, 8 * kMiB) << "zeros were stored";
  const std::unique_ptr<Sandbox> clone = restore("first");
  ASSERT_EQ(clone->machine().memory().regions().size(), 2U);
  EXPECT_EQ(clone->machine().memory().regions()[1].guest_base, kHighBase);
  expect_marks(*clone);
  EXPECT_EQ(scan(*clone), seeded_scan());
  std::byte beyond[1];
  EXPECT_EQ(must_fail(clone->machine().memory().read(kLowEnd, beyond)).code, Code::kInvalid);
  EXPECT_EQ(must_fail(clone->machine().memory().read(kHighEnd, beyond)).code, Code::kInvalid);
}

TEST_P(HighMemoryTest, ACloneThatHasNotRunCapturesToTheSameDigest) {
  const snapshot::Captured first = capture(*boot_marked(), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  const snapshot::Captured second = capture(*clone, "second");
  EXPECT_EQ(second.memory_digest, first.memory_digest);
  expect_ok(snapshot::verify(store(), named("second"), snapshot::Depth::kDeep));
  expect_marks(*restore("second"));
}

TEST_P(HighMemoryTest, AClonesWritesInBothRegionsAreInItsCaptureInUnitsOfAnySize) {
  capture(*boot_marked(), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  constexpr std::uint64_t kWritten[] = {kLowEnd - 4'097, kHighBase + 8, kHighEnd - 4'096};
  const std::byte mark[1] = {std::byte{0x5A}};
  for (const std::uint64_t address : kWritten) {
    must(clone->machine().memory().write(address, mark));
  }
  for (const std::uint64_t unit : {std::uint64_t{4096}, kUnitBytes, 2 * kMiB}) {
    must(snapshot::capture(kvm(), *clone, store(), named("second"),
                           {.if_taken = Store::IfTaken::kReplace, .unit_bytes = unit}));
    expect_ok(snapshot::verify(store(), named("second"), snapshot::Depth::kDeep));
    const std::unique_ptr<Sandbox> child = restore("second");
    expect_marks(*child);
    for (const std::uint64_t address : kWritten) {
      std::byte found[1] = {};
      must(child->machine().memory().read(address, found));
      EXPECT_EQ(found[0], mark[0]) << "at " << address;
    }
    EXPECT_EQ(scan(*child), seeded_scan());
  }
}

}  // namespace
}  // namespace volt::test
