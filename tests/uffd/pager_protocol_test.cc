// Messages between a VM and its pager: as bytes, back, and refused.
#include "uffd/pager_protocol.h"

#include <gtest/gtest.h>

namespace volt::uffd::pager {
namespace {

std::vector<Message> every_message() {
  return {Hello{Mode::kIsolated, "kv:latest"},
          Welcome{1 << 20, 65536, {100, 2000}, "sha256:00"},
          Refused{Code::kNotFound, "no snapshot"},
          Attach{{{0x7000'0000, 65536, 0}, {0x8000'0000, 65536, 65536}}},
          Attached{},
          Lost{7, "image unit 7: pack: its sum is wrong"},
          Close{9},
          Forget{},
          Forgotten{},
          AskStats{},
          Stats{"{}"},
          Ping{},
          Pong{}};
}

std::size_t fds_of(const Message& message) {
  if (std::holds_alternative<Welcome>(message)) return 2;
  return std::holds_alternative<Attach>(message) ? 1 : 0;
}

Result<Message> decode(std::span<const std::byte> bytes) {
  const Head head = VOLT_TRY(decode_head(bytes));
  return decode_body(head, bytes.subspan(kHeadBytes));
}

TEST(PagerProtocolTest, EveryMessageComesBackAsItWas) {
  for (const Message& message : every_message()) {
    const auto bytes = encode(message, fds_of(message));
    const auto back = decode(bytes);
    ASSERT_TRUE(back) << back.error().context;
    EXPECT_EQ(*back, message) << message.index();
  }
}

TEST(PagerProtocolTest, TheBytesAreThoseOfTheReadme) {
  const auto bytes = encode(Hello{Mode::kShared, "kv"}, 0);
  const std::vector<std::uint8_t> expected = {'V', 'P', 'G', 'R', 1, 0, 1, 0, 6, 0,   0,
                                              0,   0,   0,   0,   0, 1, 0, 0, 0, 'k', 'v'};
  ASSERT_EQ(bytes.size(), expected.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(std::to_integer<std::uint8_t>(bytes[i]), expected[i]) << i;
  }
}

TEST(PagerProtocolTest, ACutOrPaddedBodyIsRefusedOrAnotherText) {
  for (const Message& message : every_message()) {
    const auto bytes = encode(message, fds_of(message));
    const Head head = decode_head(bytes).value();
    for (std::size_t size = 0; size < head.body_bytes; ++size) {
      const auto back = decode_body(head, std::span(bytes).subspan(kHeadBytes, size));
      EXPECT_FALSE(back && *back == message) << size;
    }
  }
  const Head close = decode_head(encode(Close{1}, 0)).value();
  EXPECT_FALSE(decode_body(close, std::vector<std::byte>(9)));
  const Head attached = decode_head(encode(Attached{}, 0)).value();
  EXPECT_FALSE(decode_body(attached, std::vector<std::byte>(1)));
}

TEST(PagerProtocolTest, HeadsBeyondTheirLimitsAreRefusedByField) {
  const auto good = encode(Close{1}, 0);
  const std::pair<std::size_t, const char*> cases[] = {
      {0, "magic"}, {4, "version"}, {6, "type"}, {10, "length"}, {12, "descriptors"}};
  for (const auto& [at, field] : cases) {
    auto bytes = good;
    bytes[at] = std::byte{0x7F};
    const auto head = decode_head(bytes);
    ASSERT_FALSE(head) << field;
    EXPECT_NE(head.error().context.find(field), std::string::npos) << head.error().context;
  }
}

}  // namespace
}  // namespace volt::uffd::pager
