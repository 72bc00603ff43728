#include "formats/digest.h"

#include <gtest/gtest.h>

#include "formats/field.h"
#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

// Vectors: xxHash's own sanity tests for no bytes, and FIPS 180-2 for SHA-256.
TEST(DigestTest, Xxh128IsTheCanonicalForm) {
  EXPECT_EQ(to_hex(xxh128({})), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(to_hex(xxh128(bytes_of("abc"))), "06b05ab6733a618578af5f94892f3950");
}

TEST(DigestTest, Xxh128DependsOnTheSeed) {
  EXPECT_NE(xxh128(bytes_of("abc"), 1), xxh128(bytes_of("abc"), 2));
  EXPECT_EQ(xxh128(bytes_of("abc"), 0), xxh128(bytes_of("abc")));
}

TEST(DigestTest, Xxh128OverTwoPartsIsThatOverTheWhole) {
  const Bytes whole = bytes_of(counting(5000, 0));
  for (const std::size_t split : {0UZ, 1UZ, 32UZ, 240UZ, 241UZ, 4999UZ, 5000UZ}) {
    EXPECT_EQ(xxh128(std::span(whole).first(split), std::span(whole).subspan(split)), xxh128(whole))
        << split;
  }
}

// Wide vectors, where there are any, against those that every processor has.
TEST(DigestTest, Xxh128IsTheSameByWhateverVectors) {
  const Bytes whole = bytes_of(counting(70'000, 3));
  for (const std::size_t size : {1023UZ, 1024UZ, 1025UZ, 2047UZ, 4096UZ, 65'536UZ, 69'999UZ}) {
    const auto bytes = std::span(whole).subspan(1, size);
    EXPECT_EQ(xxh128(bytes), xxh128(bytes, std::span<const std::byte>())) << size;
  }
}

// By xxHash itself, compiled for SSE2.
TEST(DigestTest, Xxh128OfZerosWithASeed) {
  EXPECT_EQ(to_hex(xxh128(Bytes(4096), 7)), "ac64530a495117b273ca3cc0d1a2e107");
}

TEST(DigestTest, Sha256OfKnownTexts) {
  EXPECT_EQ(to_hex(sha256({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(to_hex(sha256(bytes_of("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, Sha256StreamIsThatOverTheWhole) {
  const Bytes whole = bytes_of(counting(1000, 5));
  Sha256Stream stream;
  for (const std::byte& byte : whole) stream.add(std::span(&byte, 1));
  EXPECT_EQ(stream.finish(), sha256(whole));
}

TEST(DigestTest, HexGoesThereAndBack) {
  const Sha256 digest = sha256(bytes_of("volt"));
  EXPECT_EQ(sha256_from_hex(to_hex(digest)).value(), digest);
}

TEST(DigestTest, AnythingBut64LowerCaseDigitsIsInvalid) {
  const std::string most(63, 'a');
  const std::string bad[] = {"",
                             most,
                             join({most, "aa"}),
                             join({"A", most}),
                             join({"g", most}),
                             join({most, " "}),
                             std::string(64, '\0'),
                             join({"0x", most})};
  for (const std::string& text : bad) {
    const Result<Sha256> digest = sha256_from_hex(text);
    ASSERT_FALSE(digest) << text;
    EXPECT_EQ(digest.error().code, Code::kInvalid);
  }
}

}  // namespace
}  // namespace volt::formats
