#include "formats/summed_blocks.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace volt::formats {
namespace {

Result<> no_rules(std::uint64_t, std::uint64_t) {
  return {};
}

// An array of n entries that are all different.
std::vector<std::byte> sample_blocks(std::uint64_t n, std::uint64_t seed) {
  std::vector<std::uint64_t> entries(n * kBlockEntryBytes / 8);
  std::iota(entries.begin(), entries.end(), std::uint64_t{1});
  std::vector<std::byte> bytes(summed_bytes(n));
  write_blocks(std::as_bytes(std::span(entries)), seed, bytes);
  return bytes;
}

// Every length is that of one number of entries, or of none.
TEST(SummedBlocksTest, LengthTellsTheNumberOfEntries) {
  std::uint64_t n = 0;
  for (std::uint64_t bytes = 0; bytes <= summed_bytes(300); ++bytes) {
    const bool whole = bytes == summed_bytes(n);
    EXPECT_EQ(summed_entries(bytes), whole ? std::optional(n) : std::nullopt) << bytes;
    if (whole) ++n;
  }
  EXPECT_EQ(n, 301);
  EXPECT_EQ(summed_bytes(std::uint64_t{1} << 30), (std::uint64_t{1} << 23) * kBlockBytes);
}

TEST(SummedBlocksTest, SeedOfAnotherArrayDoesNotPass) {
  const std::vector<std::byte> bytes = sample_blocks(300, 7);
  const SummedBlocks own(bytes, 7);
  const SummedBlocks other(bytes, 9);
  for (std::uint64_t block = 0; block < 3; ++block) {
    EXPECT_TRUE(own.check(block, no_rules));
    EXPECT_FALSE(other.check(block, no_rules));
  }
  // Seeds that differ by one are those of neighbours: block 1 of the one is block 0 of the next.
  const auto second = std::span(bytes).subspan(kBlockBytes);
  EXPECT_TRUE(SummedBlocks(second, 8).check(0, no_rules));
}

TEST(SummedBlocksTest, RulesAreAskedOnceForABlockThatIsGood) {
  const std::vector<std::byte> bytes = sample_blocks(129, 0);
  const SummedBlocks blocks(bytes, 0);
  std::vector<std::uint64_t> asked;
  const auto rules = [&](std::uint64_t first, std::uint64_t end) -> Result<> {
    asked.insert(asked.end(), {first, end});
    return asked.size() == 2 ? fail(Code::kCorrupt, "not yet") : Result<>();
  };
  EXPECT_FALSE(blocks.check(1, rules));  // a refusal is not remembered as a pass
  EXPECT_TRUE(blocks.check(1, rules));
  EXPECT_TRUE(blocks.check(1, rules));
  EXPECT_EQ(asked, (std::vector<std::uint64_t>{128, 129, 128, 129}));
}

TEST(SummedBlocksDeathTest, HalfAnEntryIsTheCallersBug) {
  const std::vector<std::byte> bytes(47);
  EXPECT_DEATH(SummedBlocks(bytes, 0), "no number of entries");
}

}  // namespace
}  // namespace volt::formats
