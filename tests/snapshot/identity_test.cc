// No two clones are the same machine: generation, entropy and clocks are new before a clone runs
// anything of its own, or its first call fails.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "tests/snapshot/fixture.h"
#include "vmm/identity.h"

namespace volt::test {
namespace {

constexpr std::size_t kClones = 1'000;
constexpr std::uint64_t kSecondNs = 1'000'000'000;

using Generation = std::pair<std::uint64_t, std::uint64_t>;

Generation generation_of(const guest_abi::HealthReply& reply) {
  return {reply.generation[0], reply.generation[1]};
}

class IdentityTest : public EveryLoaderTest {};

INSTANTIATE_TEST_SUITE_P(EveryLoader, IdentityTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

class ThousandClonesTest : public SnapshotTest {};

TEST_F(ThousandClonesTest, AThousandClonesGiveAThousandRandomValuesAndGenerations) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  std::set<Generation> generations = {generation_of(health(*guest))};
  std::set<std::uint64_t> randoms = {random_word(*guest)};
  capture(*guest, "echo");
  randoms.insert(random_word(*guest));  // what the source goes on with is nobody else's either
  for (std::size_t i = 0; i < kClones; ++i) {
    const std::unique_ptr<Sandbox> clone = restore("echo");
    const guest_abi::HealthReply reply = health(*clone);
    ASSERT_TRUE(generations.insert(generation_of(reply)).second) << "clone " << i;
    ASSERT_TRUE(randoms.insert(reply.random).second) << "clone " << i;
    ASSERT_TRUE(randoms.insert(random_word(*clone)).second) << "clone " << i;
  }
  EXPECT_EQ(generations.size(), kClones + 1);
  EXPECT_EQ(randoms.size(), 2 * kClones + 2);
}

TEST_P(IdentityTest, ClonesOfOneSnapshotDifferFromEachOtherAndFromTheCapturedOne) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  std::set<Generation> generations = {generation_of(health(*guest))};
  capture(*guest, "echo");
  std::set<std::uint64_t> randoms = {random_word(*guest)};
  constexpr std::size_t kFew = 20;
  for (std::size_t i = 0; i < kFew; ++i) {
    const guest_abi::HealthReply reply = health(*restore("echo"));
    generations.insert(generation_of(reply));
    randoms.insert(reply.random);
  }
  EXPECT_EQ(generations.size(), kFew + 1);
  EXPECT_EQ(randoms.size(), kFew + 1);
}

TEST_P(IdentityTest, ACapturedGenerationIsKeptAndNeverGivenOutAgain) {
  const std::unique_ptr<Sandbox> guest = boot_echo();
  const Generation captured = generation_of(health(*guest));
  capture(*guest, "echo");
  const std::unique_ptr<Sandbox> clone = restore("echo");
  const std::string& kept = clone->facts().guest.generation();
  ASSERT_EQ(kept.size(), sizeof(std::uint64_t) * 2);
  std::uint64_t words[2];
  std::memcpy(words, kept.data(), sizeof words);
  EXPECT_EQ(captured, (Generation{words[0], words[1]}));
  EXPECT_NE(generation_of(health(*clone)), captured);
}

// A sibling that makes the same calls must not get the same random bytes later, either.
TEST_P(IdentityTest, ClonesStayDifferentHoweverLongTheyRun) {
  capture(*boot_echo(), "echo");
  const std::unique_ptr<Sandbox> one = restore("echo");
  const std::unique_ptr<Sandbox> other = restore("echo");
  std::set<std::uint64_t> randoms;
  for (int i = 0; i < 100; ++i) {
    randoms.insert(random_word(*one));
    randoms.insert(random_word(*other));
  }
  EXPECT_EQ(randoms.size(), 200U);
}

struct Clocks {
  std::uint64_t wall_ns;
  std::uint64_t mono_ns;
};

TEST_P(IdentityTest, ACloneKnowsWhatTimeItIsAndNotWhenItWasCaptured) {
  // Captured by a guest whose clock is an hour late, so that a clone that kept it would show.
  const std::unique_ptr<Sandbox> guest = boot_echo();
  guest_abi::Identity late = guest->machine().exchange().identity();
  late.wall_ns -= 3'600 * kSecondNs;
  late.mono_ns += 3'600 * kSecondNs;
  late.generation[0] ^= 1;  // so that it takes it over
  guest->machine().exchange().set_identity(late);
  // Not through the sandbox, which would set the clocks right.
  const vmm::Call now = {.function = Function::kNow, .arguments = {}};
  const auto its_clocks =
      reply_as<Clocks>(must(vmm::call_guest(guest->machine(), now, soon(), {})));
  ASSERT_LT(its_clocks.wall_ns, vmm::wall_clock_ns() - 3'000 * kSecondNs);
  capture(*guest, "echo");

  const std::uint64_t wall_before = vmm::wall_clock_ns();
  const std::uint64_t mono_before = vmm::monotonic_clock_ns();
  const std::unique_ptr<Sandbox> clone = restore("echo");
  const auto clocks = reply_as<Clocks>(must(call(*clone, Function::kNow)));
  EXPECT_GE(clocks.wall_ns + kSecondNs, wall_before);
  EXPECT_LE(clocks.wall_ns, vmm::wall_clock_ns() + kSecondNs);
  EXPECT_GE(clocks.mono_ns + kSecondNs, mono_before);
  EXPECT_LE(clocks.mono_ns, vmm::monotonic_clock_ns() + kSecondNs);
}

// It has taken over one identity already when it is given another, and looks no more.
TEST_P(IdentityTest, AGuestThatDoesNotAcknowledgeItsIdentityFailsItsFirstCall) {
  capture(*boot_echo(), "echo");
  const std::unique_ptr<Sandbox> clone = restore("echo");
  const vmm::Call ask = {.function = Function::kHealth, .arguments = {}};
  must(vmm::call_guest(clone->machine(), ask, soon(), {}));
  guest_abi::Identity unseen = clone->machine().exchange().identity();
  unseen.generation[0] ^= 1;
  clone->machine().exchange().set_identity(unseen);
  for (int i = 0; i < 2; ++i) {
    const Error error = must_fail(call(*clone, ask));
    EXPECT_EQ(error.code, Code::kGuestCrashed);
    EXPECT_TRUE(contains(error.context, "identity")) << error.context;
  }
}

}  // namespace
}  // namespace volt::test
