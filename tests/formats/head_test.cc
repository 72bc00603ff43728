#include "formats/head.h"

#include <gtest/gtest.h>

#include "formats/digest.h"
#include "formats/little_endian.h"
#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

const Bytes kBody = bytes_of("what follows the head");

Result<std::span<const std::byte>> open(std::span<const std::byte> file) {
  return unseal(FileKind::kManifest, file, "manifest");
}

// A head changed on purpose, with a sum that says so.
template <typename T>
Bytes with(std::size_t offset, T value) {
  Bytes file = seal(FileKind::kManifest, kBody);
  store(file.data() + offset, value);
  const Xxh128 sum = xxh128(std::span(file).first(32), std::span(file).subspan(kHeadBytes));
  std::ranges::copy(sum, file.begin() + 32);
  return file;
}

void expect_refused(const Bytes& file, Code code, const std::string& context) {
  const auto body = open(file);
  ASSERT_FALSE(body) << context;
  EXPECT_EQ(body.error().code, code);
  EXPECT_EQ(body.error().context, context);
}

TEST(HeadTest, SealedBodyComesBack) {
  const Bytes file = seal(FileKind::kManifest, kBody);
  ASSERT_EQ(file.size(), kHeadBytes + kBody.size());
  const auto body = open(file);
  ASSERT_TRUE(body) << body.error().context;
  EXPECT_TRUE(std::ranges::equal(*body, kBody));
  EXPECT_EQ(body->data(), file.data() + kHeadBytes);
}

TEST(HeadTest, EmptyBodyIsABody) {
  const auto body = open(seal(FileKind::kManifest, {}));
  ASSERT_TRUE(body);
  EXPECT_TRUE(body->empty());
}

// The sum covers the first 32 bytes and the body as if nothing stood between them.
TEST(HeadTest, SumIsWhatTheHeaderSays) {
  const Bytes file = seal(FileKind::kMachineState, kBody);
  Bytes summed(file.begin(), file.begin() + 32);
  summed.insert(summed.end(), kBody.begin(), kBody.end());
  EXPECT_TRUE(std::ranges::equal(xxh128(summed), std::span(file).subspan(32, 16)));
}

TEST(HeadTest, OneKindIsNotTheOther) {
  const Bytes file = seal(FileKind::kMachineState, kBody);
  expect_refused(file, Code::kCorrupt, "manifest: magic: not a Volt manifest");
  const auto body = unseal(FileKind::kMachineState, seal(FileKind::kManifest, kBody), "state");
  EXPECT_EQ(body.error().context, "state: magic: not a Volt machine state");
}

TEST(HeadTest, OtherMajorIsUnsupported) {
  expect_refused(with<std::uint16_t>(8, 2), Code::kUnsupported,
                 "manifest: major: 2, this build reads 1");
}

TEST(HeadTest, OtherMinorIsAccepted) {
  EXPECT_TRUE(open(with<std::uint16_t>(10, 999)));
}

TEST(HeadTest, SetBitThatMustBeZeroIsUnsupported) {
  expect_refused(with<std::uint32_t>(12, 4), Code::kUnsupported,
                 "manifest: must_be_zero: 4, needs a newer build");
}

TEST(HeadTest, ClaimsAboutTheBodyAreCompared) {
  expect_refused(with<std::uint64_t>(16, std::uint64_t{1} << 60), Code::kCorrupt,
                 "manifest: body_bytes: 1152921504606846976, at most 16777216");
  expect_refused(with<std::uint64_t>(16, 20), Code::kCorrupt,
                 "manifest: body_bytes: 20, the file has 21");
  // A sum of head and body that wraps around to the file's size.
  expect_refused(with<std::uint64_t>(16, std::uint64_t{0} - kHeadBytes), Code::kCorrupt,
                 "manifest: body_bytes: 18446744073709551568, at most 16777216");
}

TEST(HeadTest, BytesBehindTheBodyAreRefused) {
  Bytes file = seal(FileKind::kManifest, kBody);
  file.push_back(std::byte{0});
  expect_refused(file, Code::kCorrupt, "manifest: body_bytes: 21, the file has 22");
}

TEST(HeadTest, ReservedIsZero) {
  expect_refused(with<std::uint64_t>(24, 1), Code::kCorrupt, "manifest: reserved: not zero");
}

TEST(HeadTest, ChangedBodyIsSeen) {
  Bytes file = seal(FileKind::kManifest, kBody);
  file.back() ^= std::byte{1};
  expect_refused(file, Code::kCorrupt, "manifest: sum: bytes changed since it was written");
}

TEST(HeadTest, ShortFileHasNoHead) {
  expect_refused({}, Code::kCorrupt, "manifest: head: 0 bytes, not 48");
}

TEST(HeadDeathTest, BodyBeyondTheLimitIsTheCallersBug) {
  const Bytes body(kMaxBodyBytes + 1);
  EXPECT_DEATH(seal(FileKind::kManifest, body), "seal: the body is too long");
}

}  // namespace
}  // namespace volt::formats
