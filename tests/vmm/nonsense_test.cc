// A guest that means harm, for 10,000 rounds: the host gets a value or an error out of each, never
// stalls, and nothing but the window and the guest's own memory changes.
#include <random>
#include <string>

#include "tests/vmm/guest_fixture.h"

namespace volt::vmm {
namespace {

using test::GuestTest;

using NonsenseTest = GuestTest;

constexpr int kRounds = 10'000;

// Everything a host does with a guest that has rung.
void use(Machine& machine) {
  Exchange& exchange = machine.exchange();
  if (const Result<Reply> reply = exchange.receive(); !reply) {
    ASSERT_EQ(reply.error().code, Code::kGuestCrashed);
  }
  if (const Result<GuestCall> asked = exchange.host_call(); !asked) {
    ASSERT_EQ(asked.error().code, Code::kGuestCrashed);
  }
  if (const Result<> served = serve_host_call(machine, {}); !served) {
    ASSERT_EQ(served.error().code, Code::kGuestCrashed);
  }
  static_cast<void>(exchange.ready_info());  // any numbers will do: whoever uses them checks them
  ASSERT_FALSE(exchange.identity_adopted());
}

TEST_F(NonsenseTest, TenThousandRoundsAreEachAValueOrAnError) {
  const std::uint64_t seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::printf("nonsense guest: seed %llu\n", static_cast<unsigned long long>(seed));
  auto booted = boot(test::nonsense_image(), {.ram_bytes = test::kGuestRam, .seed = seed});
  ASSERT_TRUE(booted) << booted.error().context;
  Machine& machine = *booted->machine;
  const guest_abi::Identity identity = machine.exchange().identity();
  std::vector<std::byte> before(test::kGuestRam), after(test::kGuestRam);
  ASSERT_TRUE(machine.memory().read(0, before));

  int seen[5] = {}, crashed = 0;
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_TRUE(machine.exchange().send(test::Function::kEcho, test::words({1}), {}));
    const Result<Doorbell> doorbell = machine.run(test::soon());
    if (doorbell) {
      ++seen[static_cast<std::size_t>(doorbell->kind)];
    } else {
      ASSERT_EQ(doorbell.error().code, Code::kGuestCrashed) << doorbell.error().context;
      ++crashed;
    }
    ASSERT_NO_FATAL_FAILURE(use(machine)) << "round " << round;
  }

  for (const int count : seen) EXPECT_GT(count, 0) << "every doorbell was rung";
  EXPECT_GT(crashed, 0);
  EXPECT_EQ(std::memcmp(&machine.exchange().identity(), &identity, sizeof identity), 0);
  ASSERT_TRUE(machine.memory().read(0, after));
  const auto note = GuestImage::parse(test::nonsense_image()).value().note();
  const auto own_begin = static_cast<long>(note.mutable_base);
  const auto own_end = static_cast<long>(note.mutable_base + note.mutable_bytes);
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + own_begin, after.begin()));
  EXPECT_TRUE(std::equal(before.begin() + own_end, before.end(), after.begin() + own_end));
}

// The same through the calls that the product makes.
TEST_F(NonsenseTest, CallsIntoItEndInAnErrorOrAReply) {
  auto booted = boot(test::nonsense_image(), {.ram_bytes = test::kGuestRam, .seed = 1});
  ASSERT_TRUE(booted) << booted.error().context;
  int replies = 0, refused = 0;
  for (int i = 0; i < 2'000; ++i) {
    const auto reply = call(*booted->machine, test::Function::kEcho, {1});
    ++(reply ? replies : refused);
    if (reply) continue;
    ASSERT_TRUE(reply.error().code == Code::kGuestCrashed || reply.error().code == Code::kInvalid)
        << reply.error().context;
  }
  EXPECT_GT(replies, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace volt::vmm
