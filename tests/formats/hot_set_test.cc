#include "formats/hot_set.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

TEST(HotSetTest, GivesWhatWasWritten) {
  for (const std::size_t n : {0UZ, 1UZ, 127UZ, 128UZ, 129UZ, 1000UZ}) {
    const HotSet set = sample_hot_set(n);
    const Result<HotSet> read = decode_hot_set(encode_hot_set(set));
    ASSERT_TRUE(read) << read.error().context;
    EXPECT_EQ(read->digest, set.digest);
    EXPECT_EQ(read->pages, set.pages);
  }
}

}  // namespace
}  // namespace volt::formats
