#include "tools/restore_report.h"

#include <gtest/gtest.h>

#include <cmath>

namespace volt::tools {
namespace {

TEST(SamplesTest, VariationIsTheStandardDeviationByTheMean) {
  Samples samples;
  for (const std::uint64_t ns : {2U, 4U, 4U, 4U, 5U, 5U, 7U, 9U}) samples.add(ns);
  ASSERT_TRUE(samples.variation());
  EXPECT_NEAR(*samples.variation(), std::sqrt(32.0 / 7) / 5, 1e-12);
}

TEST(SamplesTest, EqualSamplesDoNotVary) {
  Samples samples;
  samples.add(3);
  samples.add(3);
  EXPECT_EQ(samples.variation(), 0.0);
}

TEST(SamplesTest, OneSampleHasNoVariation) {
  Samples samples;
  EXPECT_FALSE(samples.variation());
  samples.add(3);
  EXPECT_FALSE(samples.variation());
}

TEST(TableTest, NamesAreAsWideAsAsked) {
  EXPECT_EQ(table_row("a", {1}, 4), "a             1.0\n");
  EXPECT_EQ(table_head("a", {"b"}, 4), "a               b\n");
  EXPECT_EQ(table_row("a", {1}).size(), table_row("a", {1}, 14).size());
}

}  // namespace
}  // namespace volt::tools
