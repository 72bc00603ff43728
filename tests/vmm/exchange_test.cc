// The host's side of the window against a guest that the test plays: every word it may write is
// set to nonsense, and each must come back as an error or as harmless bytes.
#include "vmm/exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

namespace volt::vmm {
namespace {

using guest_abi::ControlPage;
using guest_abi::Function;
using guest_abi::Status;

constexpr std::uint32_t kWindow = guest_abi::kWindowBytes;
constexpr std::uint32_t kHead = sizeof(guest_abi::ReplyHead);

struct Sides {
  Exchange host = Exchange::create().value();
  ControlPage& guest = *reinterpret_cast<ControlPage*>(host.memory().data());

  // A request, and a good answer to it of `bytes` bytes at `offset`.
  void answer(std::uint32_t offset, std::uint32_t bytes) {
    EXPECT_TRUE(host.send(Function::kEcho, {}, {}));
    guest.response.status = Status::kOk;
    guest.response.offset = offset;
    guest.response.bytes = bytes;
    guest.response.seq = guest.request.seq;
  }
};

void expect_crash(const auto& result, const char* what) {
  ASSERT_FALSE(result) << "accepted; expected: " << what;
  EXPECT_EQ(result.error().code, Code::kGuestCrashed);
  EXPECT_NE(result.error().context.find(what), std::string::npos) << result.error().context;
}

TEST(ExchangeTest, SmallArgumentsTravelInTheControlPage) {
  Sides sides;
  const std::vector<std::byte> arguments(guest_abi::kInlineBytes, std::byte{7});
  ASSERT_TRUE(sides.host.send(Function::kEcho, arguments, {}));
  EXPECT_EQ(sides.guest.request.offset, offsetof(ControlPage, inline_request));
  EXPECT_EQ(sides.guest.request.bytes, guest_abi::kInlineBytes);
  EXPECT_EQ(sides.guest.request.function, Function::kEcho);
  EXPECT_EQ(sides.guest.inline_request[guest_abi::kInlineBytes - 1], 7);
  EXPECT_EQ(sides.guest.inline_response[0], 0);
}

TEST(ExchangeTest, LargerArgumentsTravelInTheArea) {
  Sides sides;
  std::vector<std::byte> arguments(guest_abi::kInlineBytes + 1, std::byte{7});
  ASSERT_TRUE(sides.host.send(Function::kEcho, arguments, {}));
  EXPECT_EQ(sides.guest.request.offset, guest_abi::kRequestArea);
  arguments.resize(guest_abi::kRequestAreaBytes, std::byte{9});
  ASSERT_TRUE(sides.host.send(Function::kEcho, arguments, {}));
  EXPECT_EQ(sides.guest.request.bytes, guest_abi::kRequestAreaBytes);
  EXPECT_EQ(sides.host.memory()[guest_abi::kResponseArea - 1], std::byte{9});
  EXPECT_EQ(sides.host.memory()[guest_abi::kResponseArea], std::byte{0});
}

TEST(ExchangeTest, ArgumentsThatDoNotFitAreRefusedAndNothingIsSent) {
  Sides sides;
  const std::vector<std::byte> arguments(guest_abi::kRequestAreaBytes + 1);
  const Result<> sent = sides.host.send(Function::kEcho, arguments, {});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, Code::kInvalid);
  EXPECT_EQ(sides.guest.request.seq, 0u);
}

TEST(ExchangeTest, EachRequestHasTheNextNumberAndSaysHowToAnswer) {
  Sides sides;
  ASSERT_TRUE(sides.host.send(Function::kEcho, {}, {.want_kick = true, .spin_tsc = 12345}));
  EXPECT_EQ(sides.guest.request.seq, 1u);
  EXPECT_EQ(sides.guest.request.want_kick, 1u);
  EXPECT_EQ(sides.guest.request.spin_tsc, 12345u);
  ASSERT_TRUE(sides.host.send(Function::kEcho, {}, {}));
  EXPECT_EQ(sides.guest.request.seq, 2u);
  EXPECT_EQ(sides.guest.request.want_kick, 0u);
  EXPECT_EQ(sides.guest.request.spin_tsc, 0u);
}

TEST(ExchangeTest, AnAnswerIsCopiedOutOfTheGuestsReach) {
  Sides sides;
  sides.answer(guest_abi::kResponseArea, kHead + 3);
  std::memcpy(sides.host.memory().data() + guest_abi::kResponseArea + kHead, "abc", 3);
  const Result<Reply> reply = sides.host.receive();
  ASSERT_TRUE(reply) << reply.error().context;
  std::memcpy(sides.host.memory().data() + guest_abi::kResponseArea + kHead, "xyz", 3);
  ASSERT_EQ(reply->data.size(), 3u);
  EXPECT_EQ(std::memcmp(reply->data.data(), "abc", 3), 0);
}

TEST(ExchangeTest, AnswersMayFillTheWindowToItsLastByte) {
  Sides sides;
  sides.answer(kWindow - kHead, kHead);
  EXPECT_TRUE(sides.host.receive());
  sides.answer(0, kWindow);
  EXPECT_EQ(sides.host.receive().value().data.size(), kWindow - kHead);
}

TEST(ExchangeTest, AnswersThatReachOutsideTheWindowAreTheGuestsFault) {
  Sides sides;
  const struct {
    std::uint32_t offset, bytes;
  } kOutside[] = {
      {0, kWindow + 1},     {kWindow, kHead},           {kWindow - kHead + 1, kHead},
      {kWindow + 1, 0},     {0xFFFF'FFFF, kHead},       {0xFFFF'FFF0, 0x20},
      {kHead, 0xFFFF'FFFF}, {0xFFFF'FFFF, 0xFFFF'FFFF}, {0x8000'0000, 0x8000'0000},
  };
  for (const auto& range : kOutside) {
    sides.answer(range.offset, range.bytes);
    expect_crash(sides.host.receive(), "outside the exchange window");
  }
}

TEST(ExchangeTest, AnAnswerShorterThanItsHeadIsTheGuestsFault) {
  Sides sides;
  for (std::uint32_t bytes = 0; bytes < kHead; ++bytes) {
    sides.answer(guest_abi::kResponseArea, bytes);
    expect_crash(sides.host.receive(), "shorter than its head");
  }
}

TEST(ExchangeTest, AnUnknownStatusIsTheGuestsFaultAndNamed) {
  Sides sides;
  for (const std::uint32_t status : {3u, 0x8000'0000u, 0xFFFF'FFFFu}) {
    sides.answer(guest_abi::kResponseArea, kHead);
    sides.guest.response.status = Status{status};
    expect_crash(sides.host.receive(), std::to_string(status).c_str());
  }
}

TEST(ExchangeTest, OnlyTheLastRequestsNumberIsAnAnswer) {
  Sides sides;
  sides.answer(guest_abi::kResponseArea, kHead);
  ASSERT_TRUE(sides.host.answered());
  for (const std::uint32_t seq : {0u, 2u, 0xFFFF'FFFFu}) {
    sides.guest.response.seq = seq;
    EXPECT_FALSE(sides.host.answered());
    expect_crash(sides.host.receive(), "without a response");
  }
  ASSERT_TRUE(sides.host.send(Function::kEcho, {}, {}));
  sides.guest.response.seq = 1;  // the answer before
  EXPECT_FALSE(sides.host.answered());
}

TEST(ExchangeTest, WithoutARequestThereIsNoAnswer) {
  Sides sides;
  EXPECT_FALSE(sides.host.answered());
  expect_crash(sides.host.receive(), "without a response");
}

TEST(ExchangeTest, AHostCallIsCopiedOutOfTheGuestsReach) {
  Sides sides;
  sides.guest.call = {.function = guest_abi::HostFunction::kLog,
                      .offset = offsetof(ControlPage, inline_call),
                      .bytes = 5};
  std::memcpy(sides.guest.inline_call, "hello", 5);
  const Result<GuestCall> call = sides.host.host_call();
  ASSERT_TRUE(call) << call.error().context;
  std::memcpy(sides.guest.inline_call, "HELLO", 5);
  EXPECT_EQ(call->function, guest_abi::HostFunction::kLog);
  ASSERT_EQ(call->data.size(), 5u);
  EXPECT_EQ(std::memcmp(call->data.data(), "hello", 5), 0);
}

TEST(ExchangeTest, HostCallsThatAreTooLongOrOutsideAreTheGuestsFault) {
  Sides sides;
  for (const std::uint32_t bytes : {guest_abi::kInlineBytes + 1, kWindow, 0xFFFF'FFFFu}) {
    sides.guest.call = {.offset = 0, .bytes = bytes};
    expect_crash(sides.host.host_call(), "at most");
  }
  for (const std::uint32_t offset : {kWindow - 3, kWindow + 1, 0xFFFF'FFFFu, 0xFFFF'FFFCu}) {
    sides.guest.call = {.offset = offset, .bytes = 4};
    expect_crash(sides.host.host_call(), "outside the exchange window");
  }
}

TEST(ExchangeTest, ARepliesLengthIsWhatItHoldsUpToSixtyBytes) {
  Sides sides;
  const std::vector<std::byte> data(61, std::byte{5});
  sides.host.reply_to_host_call(std::span(data).first(60));
  EXPECT_EQ(sides.guest.reply.bytes, 60u);
  EXPECT_EQ(sides.guest.reply.data[59], 5);
  sides.host.reply_to_host_call(data);
  EXPECT_EQ(sides.guest.reply.bytes, 60u);
  sides.host.reply_to_host_call({});
  EXPECT_EQ(sides.guest.reply.bytes, 0u);
  EXPECT_EQ(sides.guest.reply.data[0], 0) << "an old reply's bytes are not the next one's";
}

TEST(ExchangeTest, TheIdentityIsTheHostsOwnHoweverTheGuestScribbles) {
  Sides sides;
  guest_abi::Identity identity = {};
  identity.generation[0] = 11, identity.generation[1] = 22;
  sides.host.set_identity(identity);
  EXPECT_EQ(sides.guest.identity.generation[1], 22u);
  EXPECT_FALSE(sides.host.identity_adopted());
  // Both of its copies agree, but it is not what it was given.
  sides.guest.identity.generation[0] = sides.guest.response.acknowledged_generation[0] = 99;
  sides.guest.response.acknowledged_generation[1] = 22;
  EXPECT_FALSE(sides.host.identity_adopted());
  EXPECT_EQ(sides.host.identity().generation[0], 11u);
  sides.guest.response.acknowledged_generation[0] = 11;
  EXPECT_TRUE(sides.host.identity_adopted());
  sides.guest.response.acknowledged_generation[1] = 23;
  EXPECT_FALSE(sides.host.identity_adopted());
}

TEST(ExchangeTest, ReadyInfoIsWhatTheGuestSaysUnjudged) {
  Sides sides;
  sides.guest.ready = {.working_set_base = ~std::uint64_t{0}, .working_set_bytes = 7};
  EXPECT_EQ(sides.host.ready_info().working_set_base, ~std::uint64_t{0});
  EXPECT_EQ(sides.host.ready_info().working_set_bytes, 7u);
}

// Every 32-bit word of the control page at random, 20,000 times: an answer or an error, and what is
// handed out was in the window. The address sanitizer sees reads beyond it.
TEST(ExchangeTest, RandomWindowsGiveAnAnswerOrAnError) {
  const auto seed = static_cast<std::uint32_t>(testing::UnitTest::GetInstance()->random_seed());
  SCOPED_TRACE("seed " + std::to_string(seed) + " (--gtest_random_seed)");
  std::mt19937 random(seed);
  const auto length = [&random]() -> std::uint32_t {
    const std::uint32_t kEdges[] = {0, kHead - 1, kHead, kWindow - kHead, kWindow, kWindow + 1};
    return random() % 2 == 0 ? static_cast<std::uint32_t>(random()) : kEdges[random() % 6];
  };
  Sides sides;
  int answers = 0;
  for (int round = 0; round < 20'000; ++round) {
    sides.answer(length(), length() % (2 * guest_abi::kInlineBytes));
    sides.guest.response.status = Status{static_cast<std::uint32_t>(random() % 5)};
    if (random() % 8 == 0) sides.guest.response.seq = static_cast<std::uint32_t>(random());
    sides.guest.call = {.function = guest_abi::HostFunction{static_cast<std::uint32_t>(random())},
                        .offset = length(),
                        .bytes = length()};
    const Result<Reply> reply = sides.host.receive();
    if (reply) {
      ++answers;
      EXPECT_EQ(reply->data.size() + kHead, sides.guest.response.bytes);
    } else {
      EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
    }
    const Result<GuestCall> call = sides.host.host_call();
    if (call) {
      EXPECT_EQ(call->data.size(), sides.guest.call.bytes);
    }
  }
  EXPECT_GT(answers, 0);
}

}  // namespace
}  // namespace volt::vmm
