#include "tools/size.h"

#include <gtest/gtest.h>

namespace volt::tools {
namespace {

TEST(SizeTest, UnitsArePowersOf1024) {
  const struct {
    const char* text;
    std::uint64_t bytes;
  } cases[] = {
      {"0", 0},
      {"1", 1},
      {"4096", 4096},
      {"1K", 1024},
      {"64M", std::uint64_t{64} << 20},
      {"256m", std::uint64_t{256} << 20},
      {"1g", std::uint64_t{1} << 30},
      {"8KiB", 8192},
      {"8KB", 8192},
      {"1T", std::uint64_t{1} << 40},
      {"1P", std::uint64_t{1} << 50},
      {"15E", std::uint64_t{15} << 60},
      {"18446744073709551615", UINT64_MAX},
  };
  for (const auto& each : cases) {
    const auto parsed = parse_size(each.text, "--memory");
    ASSERT_TRUE(parsed) << each.text;
    EXPECT_EQ(*parsed, each.bytes) << each.text;
  }
}

TEST(SizeTest, WhatIsNoSizeIsRefusedByName) {
  for (const char* text : {"", " ", "M", "-1", "+1", " 1", "1 M", "1.5G", "1X", "1Mi", "1MiBs",
                           "12B", "1MM", "0x10", "1e9", "one"}) {
    const auto parsed = parse_size(text, "--memory");
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalid);
    EXPECT_EQ(parsed.error().context,
              "--memory '" + std::string(text) + "': a size is expected, such as 256M or 1G");
  }
}

TEST(SizeTest, WhatDoesNotFitIn64BitsIsRefusedNotWrapped) {
  for (const char* text : {"16E", "16384P", "18014398509481984K", "18446744073709551616",
                           "99999999999999999999999999", "99999999999999999999999999G"}) {
    const auto parsed = parse_size(text, "--memory");
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalid);
    EXPECT_TRUE(parsed.error().context.ends_with("larger than any machine")) << text;
  }
}

TEST(NumberTest, DecimalAndHexadecimal) {
  EXPECT_EQ(parse_number("0", "get").value(), 0u);
  EXPECT_EQ(parse_number("007", "get").value(), 7u);
  EXPECT_EQ(parse_number("0x10", "get").value(), 16u);
  EXPECT_EQ(parse_number("0xFFFFffffFFFFffff", "get").value(), UINT64_MAX);
  EXPECT_EQ(parse_number("18446744073709551615", "get").value(), UINT64_MAX);
}

TEST(NumberTest, WhatIsNoNumberIsRefusedByName) {
  for (const char* text : {"", "0x", "0X10", "-1", "+1", " 1", "1 ", "1.5", "12M", "five"}) {
    const auto parsed = parse_number(text, "--count");
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalid);
    EXPECT_EQ(parsed.error().context, "--count '" + std::string(text) + "': a number is expected");
  }
}

TEST(NumberTest, WhatDoesNotFitIn64BitsIsRefusedNotWrapped) {
  for (const char* text : {"18446744073709551616", "0x10000000000000000"}) {
    const auto parsed = parse_number(text, "--count");
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().context,
              "--count '" + std::string(text) + "': larger than 64 bits hold");
  }
}

TEST(HumanSizeTest, OneDecimalWhereItSaysSomething) {
  EXPECT_EQ(human_size(0), "0 B");
  EXPECT_EQ(human_size(1023), "1023 B");
  EXPECT_EQ(human_size(1024), "1 KiB");
  EXPECT_EQ(human_size(1536), "1.5 KiB");
  EXPECT_EQ(human_size(std::uint64_t{64} << 20), "64 MiB");
  EXPECT_EQ(human_size((std::uint64_t{64} << 20) + (256 << 10)), "64.2 MiB");
  EXPECT_EQ(human_size(std::uint64_t{200} << 20), "200 MiB");
  EXPECT_EQ(human_size(std::uint64_t{8} << 30), "8 GiB");
  EXPECT_EQ(human_size(UINT64_MAX), "16 EiB");
}

}  // namespace
}  // namespace volt::tools
