#include "formats/occurrences.h"

#include <gtest/gtest.h>

#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

constexpr Occurrence kInner[] = {{1, 1, "leaf"}};
constexpr Occurrence kRules[] = {{1, 2, "list"}, {2, 1, "inner", kInner}};

std::string verdict(const std::string& body) {
  const Result<> good = check_occurrences(bytes_of(body), kRules);
  return good ? "good" : good.error().context;
}

TEST(OccurrencesTest, AsManyAsAllowed) {
  EXPECT_EQ(verdict(""), "good");
  EXPECT_EQ(verdict(std::string("\x0A\0\x0A\0", 4)), "good");
  EXPECT_EQ(verdict(std::string("\x0A\0\x0A\0\x0A\0", 6)), "list: more than 2");
}

TEST(OccurrencesTest, InnerMessagesAreCountedEachOnItsOwn) {
  EXPECT_EQ(verdict(std::string("\x12\x02\x0A\0", 4)), "good");
  EXPECT_EQ(verdict(std::string("\x12\x04\x0A\0\x0A\0", 6)), "inner.leaf: more than 1");
  EXPECT_EQ(verdict(std::string("\x12\0\x12\0", 4)), "inner: more than 1");
}

TEST(OccurrencesTest, NumbersAndUnknownFieldsAreSkipped) {
  EXPECT_EQ(verdict("\x18\x7F\x21"
                    "12345678"
                    "\x2D"
                    "1234"
                    "\x32\x01x"),
            "good");
}

TEST(OccurrencesTest, BytesThatAreNoMessageAreRefused) {
  const std::string bad[] = {
      "\x0A",                                          // no length
      "\x0A\x05xxxx",                                  // more than is left
      "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",  // a length near 2^64
      "\x18",                                          // no value
      "\x21"
      "1234567",  // 7 bytes of 8
      "\x2D"
      "123",                                           // 3 bytes of 4
      "\x18\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",  // a number without end
      std::string("\x02\0", 2),                        // field 0
      "\x0B",                                          // a group
      "\x0F",                                          // wire type 7
      std::string("\x8A\x80\x80\x80\x10\0", 6),        // field 1 to a reader of 32 bits
  };
  for (const std::string& body : bad) EXPECT_EQ(verdict(body), "body: not an encoded message");
  EXPECT_EQ(verdict("\x12\x01\x0A"), "inner.body: not an encoded message");
}

// 8 million empty messages in 16 MiB; built, they would take more than a gigabyte.
TEST(OccurrencesTest, CrowdsAreRefusedBeforeTheyAreBuilt) {
  Bytes body(kMaxBodyBytes);
  for (std::size_t i = 0; i < body.size(); i += 2) body[i] = std::byte{0x0A};
  EXPECT_EQ(decode_machine_state(seal(FileKind::kMachineState, body)).error().context,
            "state: vcpus: more than 64");
}

}  // namespace
}  // namespace volt::formats
