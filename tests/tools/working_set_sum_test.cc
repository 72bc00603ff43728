#include "tools/working_set_sum.h"

#include <gtest/gtest.h>

#include "vmm/guest_abi.h"

namespace volt::tools {
namespace {

constexpr std::uint64_t kWordsPerPage = guest_abi::kPageBytes / 8;

// Word by word, as the ABI describes it; the product takes whole pages.
std::uint64_t plain_sum(std::uint64_t seed, std::uint64_t pages,
                        std::span<const std::uint64_t> touched) {
  guest_abi::Checksum sum;
  for (std::uint64_t word = 0; word < pages * kWordsPerPage; ++word) {
    std::uint64_t value = guest_abi::seeded_word(seed, word);
    for (const std::uint64_t page : touched) {
      if (word == page * kWordsPerPage + 1) ++value;
    }
    sum.add(value);
  }
  return sum.value();
}

formats::v1::Guest guest_of(const char* workload, std::uint64_t pages) {
  formats::v1::Guest guest;
  guest.set_workload(workload);
  guest.set_seed(7);
  guest.set_working_set_bytes(pages * guest_abi::kPageBytes);
  return guest;
}

TEST(SeededSumTest, IsTheSumOfEveryWord) {
  for (const std::uint64_t pages : {0u, 1u, 3u, 16u}) {
    EXPECT_EQ(seeded_sum(7, pages), plain_sum(7, pages, {})) << pages;
  }
}

TEST(SeededSumTest, TouchedPagesCountOnceEach) {
  const std::uint64_t touched[] = {0, 2, 5};
  EXPECT_EQ(seeded_sum(7, 6, touched), plain_sum(7, 6, touched));
  EXPECT_NE(seeded_sum(7, 6, touched), seeded_sum(7, 6));
}

TEST(SeededSumTest, DependsOnSeedAndLength) {
  EXPECT_NE(seeded_sum(1, 4), seeded_sum(2, 4));
  EXPECT_NE(seeded_sum(1, 4), seeded_sum(1, 5));
}

TEST(TouchSumTest, IsOverTheFirstWordOfEachPageInOrder) {
  const std::uint64_t pages[] = {3, 1};
  guest_abi::Checksum sum;
  sum.add(guest_abi::seeded_word(7, 3 * kWordsPerPage));
  sum.add(guest_abi::seeded_word(7, 1 * kWordsPerPage));
  EXPECT_EQ(touch_sum(7, pages), sum.value());
  const std::uint64_t reversed[] = {1, 3};
  EXPECT_NE(touch_sum(7, pages), touch_sum(7, reversed));
  EXPECT_EQ(touch_sum(7, {}), guest_abi::Checksum().value());
}

TEST(ExpectedScanTest, AnUntouchedGuestIsExpectedFromItsSeed) {
  formats::v1::Guest guest = guest_of("kv", 4);
  guest.set_working_set_checksum(0xBAD);  // what the capture says is not asked
  EXPECT_EQ(expected_scan(guest), seeded_sum(7, 4));
}

TEST(ExpectedScanTest, AGuestThatWasCalledIsExpectedAsItWasCaptured) {
  formats::v1::Guest guest = guest_of("kv", 4);
  guest.set_working_set_checksum(0x600D);
  guest.add_calls("put 5 99");
  EXPECT_EQ(expected_scan(guest), 0x600Du);
}

TEST(ExpectedScanTest, EchoHasNothingToScan) {
  EXPECT_EQ(expected_scan(guest_of("echo", 0)), guest_abi::Checksum().value());
}

}  // namespace
}  // namespace volt::tools
