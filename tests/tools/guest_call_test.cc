#include "tools/guest_call.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

namespace volt::tools {
namespace {

using guest_abi::Function;
using Words = std::vector<std::string>;

std::vector<std::uint64_t> words_of(const vmm::Call& call) {
  std::vector<std::uint64_t> words(call.arguments.size() / 8);
  std::memcpy(words.data(), call.arguments.data(), words.size() * 8);
  return words;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string refusal(const Words& words) {
  const auto call = parse_call(words);
  if (call) return "accepted";
  EXPECT_EQ(call.error().code, Code::kInvalid);
  return call.error().context;
}

vmm::Reply reply_of(std::span<const std::byte> data) {
  vmm::Reply reply = {};
  reply.checksum = 0xABC;
  reply.words = 2;
  reply.data.assign(data.begin(), data.end());
  return reply;
}

vmm::Reply reply_of_words(std::span<const std::uint64_t> words) {
  return reply_of(std::as_bytes(words));
}

TEST(ParseCallTest, NumbersBecome64BitWords) {
  const auto put = parse_call(Words{"put", "5", "0xFFFFFFFFFFFFFFFF"});
  ASSERT_TRUE(put);
  EXPECT_EQ(put->function, Function::kPut);
  EXPECT_EQ(words_of(*put), (std::vector<std::uint64_t>{5, UINT64_MAX}));
  const auto touch = parse_call(Words{"touch", "1", "2", "3"});
  ASSERT_TRUE(touch);
  EXPECT_EQ(words_of(*touch), (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(ParseCallTest, EveryFunctionOfTheHelpIsKnown) {
  const struct {
    Words words;
    Function function;
  } cases[] = {
      {{"health"}, Function::kHealth},
      {{"echo"}, Function::kEcho},
      {{"get", "1"}, Function::kGet},
      {{"put", "1", "2"}, Function::kPut},
      {{"scan", "0", "1"}, Function::kScan},
      {{"touch", "0"}, Function::kTouch},
      {{"write", "0", "1", "2"}, Function::kWrite},
      {{"random", "8"}, Function::kRandom},
      {{"now"}, Function::kNow},
      {{"ask", "now"}, Function::kAskHost},
      {{"spin"}, Function::kSpin},
      {{"crash", "null"}, Function::kCrash},
  };
  for (const auto& each : cases) {
    const auto call = parse_call(each.words);
    ASSERT_TRUE(call) << each.words[0];
    EXPECT_EQ(call->function, each.function);
    EXPECT_NE(std::string(kFunctionHelp).find("\n  " + each.words[0]), std::string::npos)
        << each.words[0] << " is not in the help";
  }
}

TEST(ParseCallTest, TextIsJoinedBySingleSpaces) {
  EXPECT_EQ(text_of(parse_call(Words{"echo", "hello", "world"})->arguments), "hello world");
  EXPECT_EQ(text_of(parse_call(Words{"echo", "two  spaces"})->arguments), "two  spaces");
  EXPECT_TRUE(parse_call(Words{"echo"})->arguments.empty());
}

TEST(ParseCallTest, HostFunctionsGoBeforeTheirText) {
  const auto ask = parse_call(Words{"ask", "log", "hi", "there"});
  ASSERT_TRUE(ask);
  std::uint64_t function = 0;
  ASSERT_GE(ask->arguments.size(), sizeof function);
  std::memcpy(&function, ask->arguments.data(), sizeof function);
  EXPECT_EQ(function, static_cast<std::uint64_t>(guest_abi::HostFunction::kLog));
  EXPECT_EQ(text_of(std::span(ask->arguments).subspan(8)), "hi there");
}

TEST(ParseCallTest, EveryCrashKindOfTheAbiHasItsName) {
  const struct {
    const char* name;
    guest_abi::CrashKind kind;
  } cases[] = {
      {"undefined", guest_abi::CrashKind::kUndefined},
      {"null", guest_abi::CrashKind::kNull},
      {"divide", guest_abi::CrashKind::kDivide},
      {"write-code", guest_abi::CrashKind::kWriteCode},
      {"run-data", guest_abi::CrashKind::kRunData},
      {"stack", guest_abi::CrashKind::kStack},
      {"unbacked", guest_abi::CrashKind::kUnbacked},
  };
  for (const auto& each : cases) {
    const auto call = parse_call(Words{"crash", each.name});
    ASSERT_TRUE(call) << each.name;
    EXPECT_EQ(words_of(*call), (std::vector{static_cast<std::uint64_t>(each.kind)}));
  }
}

TEST(ParseCallTest, RefusalsSayWhatThereIs) {
  EXPECT_EQ(refusal({"gte", "5"}),
            "function 'gte': one of health, echo, get, put, scan, touch, write, random, now, ask, "
            "spin, crash");
  EXPECT_EQ(refusal({"crash", "burn"}),
            "'burn': one of undefined, null, divide, write-code, run-data, stack, unbacked");
  EXPECT_EQ(refusal({"ask", "time"}), "'time': one of log, now, random");
  EXPECT_EQ(refusal({"get", "five"}), "get 'five': a number is expected");
  EXPECT_EQ(refusal({"get", "18446744073709551616"}),
            "get '18446744073709551616': larger than 64 bits hold");
}

TEST(ParseCallTest, TheNumberOfArgumentsIsChecked) {
  for (const Words& words :
       {Words{"health", "1"}, Words{"get"}, Words{"get", "1", "2"}, Words{"put", "1"},
        Words{"scan", "1"}, Words{"touch"}, Words{"write", "1", "2"}, Words{"random"},
        Words{"now", "1"}, Words{"ask"}, Words{"spin", "1"}, Words{"crash"}}) {
    EXPECT_EQ(refusal(words), "function '" + words[0] + "' does not take " +
                                  std::to_string(words.size() - 1) + " arguments");
  }
}

TEST(ReplyTest, ValuesClocksAndIdentityAreNamed) {
  const std::uint64_t words[] = {1, 2, 3, 4, 5, 2};
  const vmm::Reply reply = reply_of_words(words);
  const auto get = reply_json(make_call(Function::kGet, {}), reply);
  EXPECT_EQ(get["function"], "get");
  EXPECT_EQ(get["checksum"], "0x0000000000000abc");
  EXPECT_EQ(get["words_read"], 2);
  EXPECT_EQ(get["value"], 1);
  const auto now = reply_json(make_call(Function::kNow, {}), reply);
  EXPECT_EQ(now["wall_ns"], 1);
  EXPECT_EQ(now["monotonic_ns"], 2);
  const auto health = reply_json(make_call(Function::kHealth, {}), reply);
  EXPECT_EQ(health["generation"], "0x00000000000000010000000000000002");
  EXPECT_EQ(health["working_set_bytes"], 3);
  EXPECT_EQ(health["calls_served"], 4);
}

TEST(ReplyTest, EchoedTextIsTextAndOtherBytesAreHex) {
  const vmm::Call echo = make_call(Function::kEcho, {});
  const std::string hello = "hello";
  EXPECT_EQ(reply_text(echo, reply_of(std::as_bytes(std::span(hello)))), "hello\n");
  const std::string escape = "\x1b[31m";
  const auto json = reply_json(echo, reply_of(std::as_bytes(std::span(escape))));
  EXPECT_FALSE(json.contains("text")) << "a terminal's escape sequence reaches the terminal";
  EXPECT_EQ(json["data_hex"], "1b5b33316d");
}

TEST(ReplyTest, AnAnswerThatIsTooShortReadsAsZero) {
  const std::byte few[3] = {std::byte{1}, std::byte{2}, std::byte{3}};
  EXPECT_EQ(reply_json(make_call(Function::kGet, {}), reply_of(few))["value"], 0);
  const auto health = health_of(reply_of(few));
  ASSERT_FALSE(health);
  EXPECT_EQ(health.error().code, Code::kGuestCrashed);
}

TEST(ReplyTest, HealthIsReadWhole) {
  guest_abi::HealthReply sent = {};
  sent.working_set_bytes = 4096;
  sent.calls_served = 9;
  sent.workload = guest_abi::Workload::kKv;
  const auto health = health_of(reply_of(std::as_bytes(std::span(&sent, 1))));
  ASSERT_TRUE(health);
  EXPECT_EQ(health->working_set_bytes, 4096u);
  EXPECT_EQ(health->calls_served, 9u);
}

}  // namespace
}  // namespace volt::tools
