// One unit to its stored form and back.
#include "snapshot/unit_codec.h"

#include <gtest/gtest.h>

#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using snapshot::UnitDecoder;
using snapshot::UnitEncoder;

TEST(UnitCodecTest, WhatCompressesComesBackAndWhatDoesNotIsLeftRaw) {
  for (const int level : {1, 3, snapshot::kMaxLevel}) {
    UnitEncoder encoder(level);
    UnitDecoder decoder;
    for (const std::size_t bytes : {4096U, 65536U, 2U << 20}) {
      std::vector<std::byte> stored(bytes), back(bytes);
      const auto text = text_bytes(bytes, 1);
      const std::size_t frame = must(encoder.encode(text, stored));
      EXPECT_GT(frame, 0U);
      EXPECT_LT(frame, bytes * 2 / 3);
      must(decoder.decode(std::span(stored).first(frame), back));
      EXPECT_EQ(back, text);
      const auto noise = random_bytes(bytes, 2);
      EXPECT_EQ(must(encoder.encode(noise, stored)), 0U);
      must(decoder.decode(noise, back));
      EXPECT_EQ(back, noise);
    }
  }
}

TEST(UnitCodecTest, EveryTruncationIsRefused) {
  UnitEncoder encoder(1);
  UnitDecoder decoder;
  const auto text = text_bytes(4096, 1);
  std::vector<std::byte> stored(4096), back(4096);
  const std::size_t frame = must(encoder.encode(text, stored));
  for (std::size_t bytes = 0; bytes < frame; ++bytes) {
    EXPECT_EQ(must_fail(decoder.decode(std::span(stored).first(bytes), back)).code, Code::kCorrupt)
        << bytes;
  }
  must(decoder.decode(std::span(stored).first(frame), back));
}

TEST(UnitCodecTest, AFrameOfMoreOrFewerBytesThanAUnitIsRefused) {
  UnitEncoder encoder(1);
  UnitDecoder decoder;
  std::vector<std::byte> stored(8192);
  const std::size_t frame = must(encoder.encode(text_bytes(8192, 1), stored));
  for (const std::size_t bytes : {4096U, 16384U, 1U}) {
    std::vector<std::byte> into(bytes);
    EXPECT_EQ(must_fail(decoder.decode(std::span(stored).first(frame), into)).code, Code::kCorrupt);
  }
}

}  // namespace
}  // namespace volt::test
