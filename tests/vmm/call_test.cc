// The micro guest's functions, each against the same arithmetic done here.
#include "vmm/call.h"

#include <algorithm>
#include <set>
#include <string>

#include "tests/vmm/guest_fixture.h"
#include "vmm/identity.h"

namespace volt::vmm {
namespace {

using guest_abi::Checksum;
using guest_abi::HostFunction;
using guest_abi::seeded_word;
using test::GuestTest;
using test::kGuestPages;
using test::kGuestSeed;
using test::reply_as;
using test::words;

constexpr std::uint64_t kPageWords = guest_abi::kPageBytes / sizeof(std::uint64_t);
constexpr std::uint64_t kRecords = kGuestPages * kPageWords / 2;

using CallTest = GuestTest;

void expect_sum(const Reply& reply, const Checksum& sum) {
  EXPECT_EQ(reply.words, sum.words());
  EXPECT_EQ(reply.checksum, sum.value());
}

// The words of pages [first, first + count) as `seed` makes them.
Checksum sum_of_pages(std::uint64_t seed, std::uint64_t first, std::uint64_t count) {
  Checksum sum;
  for (std::uint64_t i = first * kPageWords; i < (first + count) * kPageWords; ++i) {
    sum.add(seeded_word(seed, i));
  }
  return sum;
}

TEST_F(CallTest, EchoReturnsItsArgumentsAndTheirSum) {
  const auto machine = boot_echo();
  for (const std::size_t bytes : {0UZ, 1UZ, 8UZ, 9UZ, 1000UZ, 1008UZ, 1009UZ, 1024UZ, 1025UZ,
                                  65'536UZ, std::size_t{guest_abi::kRequestAreaBytes}}) {
    std::vector<std::byte> arguments((bytes + 7) / 8 * 8);
    Checksum sum;
    for (std::size_t i = 0; i < arguments.size() / 8; ++i) {
      const std::uint64_t word = seeded_word(bytes, i);
      std::memcpy(arguments.data() + i * 8, &word, 8);
    }
    std::fill(arguments.begin() + static_cast<long>(bytes), arguments.end(), std::byte{0});
    for (std::size_t i = 0; i < arguments.size() / 8; ++i) {
      std::uint64_t word;
      std::memcpy(&word, arguments.data() + i * 8, 8);
      sum.add(word);
    }
    arguments.resize(bytes);
    const Result<Reply> reply = call(*machine, {test::Function::kEcho, arguments});
    ASSERT_TRUE(reply) << bytes << ": " << reply.error().context;
    EXPECT_EQ(reply->data, arguments);
    expect_sum(*reply, sum);
  }
}

TEST_F(CallTest, GetReadsTheRecordThatTheSeedMade) {
  const auto machine = boot_kv();
  for (const std::uint64_t n : {std::uint64_t{0}, std::uint64_t{1}, kRecords / 2, kRecords - 1}) {
    const Reply reply = call(*machine, test::Function::kGet, {n}).value();
    Checksum sum;
    sum.add(seeded_word(kGuestSeed, 2 * n));
    sum.add(seeded_word(kGuestSeed, 2 * n + 1));
    EXPECT_EQ(reply_as<std::uint64_t>(reply), seeded_word(kGuestSeed, 2 * n + 1));
    expect_sum(reply, sum);
  }
}

TEST_F(CallTest, PutReturnsTheOldValueAndGetTheNew) {
  const auto machine = boot_kv();
  const Reply put = call(*machine, test::Function::kPut, {7, 1234}).value();
  EXPECT_EQ(reply_as<std::uint64_t>(put), seeded_word(kGuestSeed, 15));
  const Reply get = call(*machine, test::Function::kGet, {7}).value();
  EXPECT_EQ(reply_as<std::uint64_t>(get), 1234u);
}

TEST_F(CallTest, ScanSumsThePagesItIsGiven) {
  const auto machine = boot_kv();
  for (const auto& [first, count] : {std::pair<std::uint64_t, std::uint64_t>{0, kGuestPages},
                                     {3, 5},
                                     {kGuestPages - 1, 1},
                                     {kGuestPages, 0}}) {
    const Reply reply = call(*machine, test::Function::kScan, {first, count}).value();
    expect_sum(reply, sum_of_pages(kGuestSeed, first, count));
  }
}

TEST_F(CallTest, TouchAddsOneToThePagesItNamesAndToNoOther) {
  const auto machine = boot_kv();
  const Reply touched = call(*machine, test::Function::kTouch, {5, 0, 5}).value();
  Checksum firsts;
  for (const std::uint64_t page : {5u, 0u, 5u}) {
    firsts.add(seeded_word(kGuestSeed, page * kPageWords));
  }
  expect_sum(touched, firsts);
  Checksum all;
  for (std::uint64_t i = 0; i < 6 * kPageWords; ++i) {
    const std::uint64_t added = i == 1 ? 1 : i == 5 * kPageWords + 1 ? 2 : 0;
    all.add(seeded_word(kGuestSeed, i) + added);
  }
  expect_sum(call(*machine, test::Function::kScan, {0, 6}).value(), all);
}

TEST_F(CallTest, WriteMakesThePagesOfAnotherSeed) {
  const auto machine = boot_kv();
  const Reply written = call(*machine, test::Function::kWrite, {2, 3, 99}).value();
  expect_sum(written, sum_of_pages(99, 2, 3));
  expect_sum(call(*machine, test::Function::kScan, {2, 3}).value(), sum_of_pages(99, 2, 3));
  expect_sum(call(*machine, test::Function::kScan, {0, 2}).value(), sum_of_pages(kGuestSeed, 0, 2));
}

TEST_F(CallTest, HealthSaysWhoTheGuestIsAndCountsItsCalls) {
  const auto machine = boot_kv();
  for (std::uint64_t calls = 1; calls <= 3; ++calls) {
    const Reply reply = call(*machine, test::Function::kHealth, {}).value();
    const auto health = reply_as<guest_abi::HealthReply>(reply);
    EXPECT_EQ(health.calls_served, calls);
    EXPECT_EQ(health.workload, guest_abi::Workload::kKv);
    EXPECT_EQ(health.working_set_bytes, kGuestPages * guest_abi::kPageBytes);
    EXPECT_EQ(health.generation[0], machine->exchange().identity().generation[0]);
    EXPECT_EQ(health.generation[1], machine->exchange().identity().generation[1]);
    expect_sum(reply, sum_of_pages(kGuestSeed, 0, 1));
  }
}

std::string text_of(const Result<Reply>& reply) {
  const std::vector<std::byte>& data = reply.value().data;
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

TEST_F(CallTest, RandomNeverRepeatsItself) {
  const auto machine = boot_echo();
  std::set<std::string> seen;
  for (int i = 0; i < 20; ++i) {
    seen.insert(text_of(call(*machine, test::Function::kRandom, {guest_abi::kMaxRandomBytes})));
  }
  EXPECT_EQ(seen.size(), 20u);
  EXPECT_EQ(seen.begin()->size(), guest_abi::kMaxRandomBytes);
}

TEST_F(CallTest, NoTwoBootsHaveTheSameRandomOrGeneration) {
  std::set<std::string> seen;
  std::set<std::uint64_t> generations;
  for (int i = 0; i < 50; ++i) {
    const auto machine = boot_echo();
    seen.insert(text_of(call(*machine, test::Function::kRandom, {16})));
    generations.insert(machine->exchange().identity().generation[0]);
    EXPECT_TRUE(machine->exchange().identity_adopted());
  }
  EXPECT_EQ(seen.size(), 50u);
  EXPECT_EQ(generations.size(), 50u);
}

TEST_F(CallTest, TheGuestsClockAgreesWithTheHosts) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  const auto machine = boot_echo();
  const std::uint64_t wall = wall_clock_ns(), mono = monotonic_clock_ns();
  const auto now =
      reply_as<std::array<std::uint64_t, 2>>(call(*machine, test::Function::kNow, {}).value());
  EXPECT_GE(now[0] + kSecond, wall);
  EXPECT_LE(now[0], wall_clock_ns() + kSecond);
  EXPECT_GE(now[1] + kSecond, mono);
  EXPECT_LE(now[1], monotonic_clock_ns() + kSecond);
}

constexpr std::uint64_t number(HostFunction function) {
  return static_cast<std::uint64_t>(function);
}

TEST_F(CallTest, WhatTheGuestLogsReachesTheHost) {
  const auto machine = boot_echo();
  std::vector<std::string> logged;
  const HostServices services = {.log = [&](std::string_view line) { logged.emplace_back(line); }};
  for (const std::string& line :
       {std::string("hello, host"), std::string(), std::string(1024, 'x')}) {
    Call ask = {test::Function::kAskHost, words({number(HostFunction::kLog)})};
    const auto bytes = std::as_bytes(std::span(line));
    ask.arguments.insert(ask.arguments.end(), bytes.begin(), bytes.end());
    const Result<Reply> reply = call_guest(*machine, ask, test::soon(), services);
    ASSERT_TRUE(reply) << reply.error().context;
    EXPECT_TRUE(reply->data.empty());
    ASSERT_FALSE(logged.empty());
    EXPECT_EQ(logged.back(), line);
  }
  EXPECT_EQ(logged.size(), 3u);
}

TEST_F(CallTest, TheHostTellsTheTimeAndGivesEntropyWhenAsked) {
  const auto machine = boot_echo();
  const std::uint64_t before = wall_clock_ns();
  const Reply now = call(*machine, test::Function::kAskHost, {number(HostFunction::kNow)}).value();
  EXPECT_GE(reply_as<std::uint64_t>(now), before);
  EXPECT_LE(reply_as<std::uint64_t>(now), wall_clock_ns());
  std::set<std::string> seen;
  for (int i = 0; i < 5; ++i) {
    seen.insert(text_of(call(*machine, test::Function::kAskHost, {number(HostFunction::kRandom)})));
  }
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_EQ(seen.begin()->size(), 32u);
}

TEST_F(CallTest, AnUnknownFunctionIsRefusedAndTheNextCallServed) {
  const auto machine = boot_echo();
  for (const std::uint32_t function : {0u, 13u, 0xFFFF'FFFFu}) {
    const Result<Reply> reply = call(*machine, {test::Function{function}, {}});
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().code, Code::kInvalid);
    EXPECT_EQ(reply.error().context, "the guest has no such function");
  }
  EXPECT_TRUE(call(*machine, test::Function::kEcho, {1}));
}

TEST_F(CallTest, BadArgumentsAreRefusedAndTheNextCallServed) {
  const auto machine = boot_kv();
  const std::uint64_t kNoKey = ~std::uint64_t{0};
  const Call kTable[] = {
      {test::Function::kGet, {}},
      {test::Function::kGet, words({kRecords})},
      {test::Function::kGet, words({kNoKey})},
      {test::Function::kGet, words({1, 2})},
      {test::Function::kPut, words({kRecords, 1})},
      {test::Function::kScan, words({0, kGuestPages + 1})},
      {test::Function::kScan, words({1, kNoKey})},
      {test::Function::kScan, words({kNoKey, 1})},
      {test::Function::kTouch, words({0, kGuestPages})},
      {test::Function::kTouch, std::vector<std::byte>(7)},
      {test::Function::kWrite, words({kGuestPages, 1, 0})},
      {test::Function::kRandom, words({guest_abi::kMaxRandomBytes + 1})},
      {test::Function::kNow, words({1})},
      {test::Function::kAskHost, words({0})},
      {test::Function::kAskHost, words({4})},
      {test::Function::kAskHost, words({number(HostFunction::kNow), 1})},
      {test::Function::kCrash, {}},
      {test::Function::kCrash, words({99})},
  };
  for (const Call& each : kTable) {
    const Result<Reply> reply = call(*machine, each);
    ASSERT_FALSE(reply) << static_cast<std::uint32_t>(each.function);
    EXPECT_EQ(reply.error().code, Code::kInvalid) << reply.error().context;
    EXPECT_EQ(reply.error().context, "the guest refused the arguments");
  }
  EXPECT_TRUE(call(*machine, test::Function::kGet, {0}));
}

TEST_F(CallTest, ARefusedTouchTouchesNothing) {
  const auto machine = boot_kv();
  EXPECT_FALSE(call(*machine, test::Function::kTouch, {0, kGuestPages}));
  expect_sum(call(*machine, test::Function::kScan, {0, 1}).value(), sum_of_pages(kGuestSeed, 0, 1));
}

TEST_F(CallTest, GuestsThatDoNotFitAreRefusedBeforeTheyAreMade) {
  const std::uint64_t page = guest_abi::kPageBytes;
  const struct {
    std::uint64_t ram, set;
  } kTable[] = {{0, 0},
                {2 << 20, 0},
                {16 << 20, 16 << 20},
                {16 << 20, ~std::uint64_t{0} & ~(page - 1)},
                {16 << 20, 100},
                {std::uint64_t{1} << 60, 0}};
  for (const auto& each : kTable) {
    const auto booted =
        boot(tools::micro_image(), {.ram_bytes = each.ram, .working_set_bytes = each.set});
    ASSERT_FALSE(booted) << each.ram << " " << each.set;
    EXPECT_EQ(booted.error().code, Code::kInvalid) << booted.error().context;
  }
}

TEST_F(CallTest, AGuestThatRefusesItsConfigEndsItsBoot) {
  const auto booted = boot(tools::micro_image(),
                           {.workload = guest_abi::Workload{77}, .ram_bytes = test::kGuestRam});
  ASSERT_FALSE(booted);
  EXPECT_EQ(booted.error().code, Code::kGuestCrashed) << booted.error().context;
}

}  // namespace
}  // namespace volt::vmm
