#include "formats/hot_set.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

Result<> read(std::span<const std::byte> file) {
  VOLT_TRY(decode_hot_set(file));
  return {};
}

std::string error_of(const Bytes& file) {
  const Result<> good = read(file);
  return good ? "none" : good.error().context;
}

// A word changed on purpose, with a sum that says so.
Bytes with_word(std::size_t i, std::uint64_t word) {
  Bytes file = encode_hot_set(sample_hot_set(4));
  store(file.data() + kHotSetHeadBytes + 8 * i, word);
  const auto words = std::span(file).subspan(kHotSetHeadBytes, 32);
  const Xxh128 sum = xxh128(words, block_seed(stored_digest(3)));
  std::ranges::copy(sum, file.end() - sizeof sum);
  return file;
}

TEST(HotSetTest, GivesWhatWasWritten) {
  for (const std::size_t n : {0UZ, 1UZ, 127UZ, 128UZ, 129UZ, 1000UZ}) {
    const HotSet set = sample_hot_set(n);
    const Result<HotSet> read = decode_hot_set(encode_hot_set(set));
    ASSERT_TRUE(read) << read.error().context;
    EXPECT_EQ(read->digest, set.digest);
    EXPECT_EQ(read->pages, set.pages);
  }
}

TEST(HotSetTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(encode_hot_set(sample_hot_set(20)), read);
}

TEST(HotSetTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(encode_hot_set(sample_hot_set(20)), "hotset", read);
}

TEST(HotSetTest, HeadRules) {
  const Bytes good = encode_hot_set(sample_hot_set(4));
  const auto changed = [&](std::size_t at, auto value) {
    return error_of(with_head(good, at, value));
  };
  EXPECT_EQ(changed(0, std::uint8_t{'W'}), "hotset: magic: not a Volt hot set");
  EXPECT_EQ(changed(8, std::uint16_t{2}), "hotset: major: 2, this build reads 1");
  EXPECT_EQ(changed(10, std::uint16_t{77}), "none");
  EXPECT_EQ(changed(12, std::uint32_t{8192}), "hotset: page_bytes: 8192, not 4096");
  EXPECT_EQ(changed(24, std::uint32_t{2}), "hotset: must_be_zero: 2, needs a newer build");
  EXPECT_EQ(changed(28, std::uint32_t{1}), "hotset: reserved: not zero");
  EXPECT_EQ(changed(16, std::uint64_t{5}),
            "hotset: page_count: 5 does not fit a file of 128 bytes");
  EXPECT_EQ(changed(16, kMaxHotPages),
            "hotset: page_count: 1048576 does not fit a file of 128 bytes");
  EXPECT_EQ(changed(16, kMaxHotPages + 1), "hotset: page_count: 1048577, at most 1048576");
  EXPECT_EQ(changed(16, (std::uint64_t{1} << 61) + 4),
            "hotset: page_count: 2305843009213693956, at most 1048576");
  EXPECT_EQ(changed(32, std::uint8_t{1}),
            "hotset: sum: bytes changed since it was written, or belong elsewhere");
}

TEST(HotSetTest, PagesBeyondTheLimitsAreRefused) {
  const std::uint64_t end = std::uint64_t{1} << 40;
  EXPECT_EQ(error_of(with_word(2, end - 1)), "none");
  EXPECT_EQ(error_of(with_word(2, (end - 1) | std::uint64_t{1} << 63)), "none");
  EXPECT_EQ(error_of(with_word(2, end)), "hotset: word 2: page: 1099511627776, beyond the limits");
  EXPECT_EQ(error_of(with_word(2, (std::uint64_t{1} << 52) - 1)),
            "hotset: word 2: page: 4503599627370495, beyond the limits");
}

TEST(HotSetTest, StrayBitsAreRefused) {
  for (unsigned bit = 52; bit < 63; ++bit) {
    EXPECT_EQ(error_of(with_word(3, 7 | std::uint64_t{1} << bit)),
              "hotset: word 3: reserved: not zero");
  }
}

TEST(HotSetTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_hotset.bin");
  const Result<HotSet> set = decode_hot_set(file);
  ASSERT_TRUE(set) << set.error().context;
  EXPECT_EQ(set->digest, stored_digest(3));
  EXPECT_EQ(set->pages, (std::vector<HotPage>{{11, false}, {8, true}, {5, false}, {2, true}}));
  EXPECT_EQ(encode_hot_set(*set), file);
}

TEST(HotSetDeathTest, WritingWhatReadersRefuseIsTheCallersBug) {
  EXPECT_DEATH(encode_hot_set({.digest = {}, .pages = {{std::uint64_t{1} << 40, false}}}),
               "a page beyond the limits");
  const std::vector<HotPage> too_many(kMaxHotPages + 1, {.page = 0, .written = false});
  EXPECT_DEATH(encode_hot_set({.digest = {}, .pages = too_many}), "too many pages");
}

}  // namespace
}  // namespace volt::formats
