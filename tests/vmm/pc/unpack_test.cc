#include "vmm/pc/unpack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/vmm/pc/kernel_builder.h"

namespace volt::pc {
namespace {

Bytes text_of(std::size_t bytes) {
  Bytes plain(bytes);
  for (std::size_t i = 0; i < bytes; ++i) plain[i] = static_cast<std::byte>(i * i / 1000);
  return plain;
}

struct Packer {
  const char* name;
  Bytes (*pack)(std::span<const std::byte>);
};

constexpr Packer kPackers[] = {
    {"lz4", lz4_of}, {"zstd", zstd_of}, {"gzip", gzip_of}, {"xz", xz_of}};

TEST(UnpackTest, GivesBackWhatWasPacked) {
  for (const Packer& packer : kPackers) {
    const Bytes plain = text_of(100'000);
    const Bytes packed = packer.pack(plain);
    EXPECT_STREQ(name_of(packing_of(packed)), packer.name);
    const Result<Mapping> unpacked = unpack(packed, plain.size());
    ASSERT_TRUE(unpacked) << packer.name << ": " << unpacked.error().context;
    EXPECT_TRUE(std::ranges::equal(unpacked->bytes(), plain)) << packer.name;
  }
}

TEST(UnpackTest, Lz4HasChunksOf8MiB) {
  const Bytes plain = text_of((16 << 20) + 5);
  const Result<Mapping> unpacked = unpack(lz4_of(plain), plain.size());
  ASSERT_TRUE(unpacked) << unpacked.error().context;
  EXPECT_TRUE(std::ranges::equal(unpacked->bytes(), plain));
}

void expect_corrupt(const Result<Mapping>& unpacked, const std::string& what) {
  ASSERT_FALSE(unpacked) << "accepted: " << what;
  EXPECT_EQ(unpacked.error().code, Code::kCorrupt) << what << ": " << unpacked.error().context;
}

TEST(UnpackTest, AnotherSizeThanSaidIsCorrupt) {
  for (const Packer& packer : kPackers) {
    const Bytes packed = packer.pack(text_of(5000));
    for (const std::uint64_t bytes : {1u, 4999u, 5001u, 100'000u}) {
      expect_corrupt(unpack(packed, bytes), packer.name + (" " + std::to_string(bytes)));
    }
    expect_corrupt(unpack(packed, 0), packer.name);
    expect_corrupt(unpack(packed, kMaxUnpacked + 1), packer.name);
    expect_corrupt(unpack(packed, ~std::uint64_t{0}), packer.name);
  }
}

// Run under the address sanitizer: the copies end where the input does.
TEST(UnpackTest, EveryTruncationIsRefused) {
  for (const Packer& packer : kPackers) {
    const Bytes packed = packer.pack(text_of(1000));
    for (std::size_t n = 0; n < packed.size(); ++n) {
      const Bytes cut(packed.begin(), packed.begin() + static_cast<long>(n));
      ASSERT_FALSE(unpack(cut, 1000)) << packer.name << " accepted " << n << " bytes";
    }
  }
}

TEST(UnpackTest, ASizeNobodySaidIsFound) {
  constexpr std::size_t kMost = (2 << 20) + 7;
  for (const auto& pack : {zstd_of, xz_of}) {
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1 << 20}, kMost}) {
      const Bytes plain = text_of(bytes);
      const auto unpacked = unpack_unsized(pack(plain), kMost);
      ASSERT_TRUE(unpacked) << bytes << ": " << unpacked.error().context;
      EXPECT_EQ(*unpacked, plain);
    }
    const auto large = unpack_unsized(pack(text_of(kMost + 1)), kMost);
    ASSERT_FALSE(large);
    EXPECT_NE(large.error().context.find("more than 2097159"), std::string::npos);
    const Bytes packed = pack(text_of(1000));
    for (std::size_t n = 0; n < packed.size(); ++n) {
      const Bytes cut(packed.begin(), packed.begin() + static_cast<long>(n));
      ASSERT_FALSE(unpack_unsized(cut, 4000)) << "accepted " << n << " bytes";
    }
  }
  EXPECT_EQ(unpack_unsized(Bytes(9), kMost).error().code, Code::kUnsupported);
}

TEST(UnpackTest, WhatOnlyTheGuestCanUnpackIsNamed) {
  const std::pair<std::string_view, const char*> kOthers[] = {{"BZh9", "bzip2"},
                                                              {{"\x5D\0\0\x80", 4}, "lzma"},
                                                              {"\x89LZO", "lzo"},
                                                              {"what", "unknown"},
                                                              {"", "unknown"}};
  for (const auto& [start, name] : kOthers) {
    const Result<Mapping> unpacked = unpack(std::as_bytes(std::span(start)), 4096);
    ASSERT_FALSE(unpacked) << name;
    EXPECT_EQ(unpacked.error().code, Code::kUnsupported) << name;
    EXPECT_NE(unpacked.error().context.find(name), std::string::npos) << unpacked.error().context;
  }
}

}  // namespace
}  // namespace volt::pc
