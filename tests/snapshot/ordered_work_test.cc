// Work by many threads, taken in order by one.
#include "snapshot/ordered_work.h"

#include <gtest/gtest.h>

#include <atomic>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::OrderedWork;

class OrderedWorkTest : public testing::TestWithParam<unsigned> {};

INSTANTIATE_TEST_SUITE_P(Threads, OrderedWorkTest, testing::Values(1U, 2U, 3U, 16U));

TEST_P(OrderedWorkTest, EveryItemIsWorkedOnOnceAndTakenInOrder) {
  for (const std::uint64_t count : {0U, 1U, 2U, 7U, 1'000U}) {
    std::atomic<int> tools = 0;
    OrderedWork<std::uint64_t, int> work(
        GetParam(), [] { return std::uint64_t{0}; }, [&] { return tools++; });
    std::vector<std::atomic<int>> in_use(GetParam());
    std::vector<std::uint64_t> taken;
    std::atomic<std::uint64_t> worked = 0;
    must(work.run(
        count,
        [&](std::uint64_t& slot, int& tool, std::uint64_t i) -> Result<> {
          std::atomic<int>& users = in_use[static_cast<std::size_t>(tool)];
          EXPECT_EQ(users++, 0) << "two threads have one tool";
          slot = i * 3;
          --users;
          ++worked;
          return {};
        },
        [&](std::uint64_t& slot, std::uint64_t i) -> Result<> {
          EXPECT_EQ(slot, i * 3);
          taken.push_back(i);
          return {};
        }));
    EXPECT_EQ(worked, count);
    ASSERT_EQ(taken.size(), count);
    EXPECT_TRUE(std::ranges::is_sorted(taken));
  }
}

TEST_P(OrderedWorkTest, AnErrorOfEitherStepEndsIt) {
  for (const bool in_work : {true, false}) {
    OrderedWork<int, int> work(GetParam(), [] { return 0; }, [] { return 0; });
    std::uint64_t taken = 0;
    const auto step = [](bool here, std::uint64_t i) -> Result<> {
      if (here && i == 50) return fail(Code::kCorrupt, "item 50");
      return {};
    };
    const Error error = must_fail(work.run(
        1'000, [&](int&, int&, std::uint64_t i) { return step(in_work, i); },
        [&](int&, std::uint64_t i) {
          ++taken;
          return step(!in_work, i);
        }));
    EXPECT_EQ(error.context, "item 50");
    EXPECT_LE(taken, 51U);
  }
}

TEST_P(OrderedWorkTest, AnInterruptEndsIt) {
  Child child([] {
    vmm::stop_on_signals();
    OrderedWork<int, int> work(GetParam(), [] { return 0; }, [] { return 0; });
    const auto nothing = [](int&, int&, std::uint64_t) { return Result<>{}; };
    const Error error = must_fail(work.run(1'000'000, nothing, [](int&, std::uint64_t i) {
      if (i == 10) check(::raise(SIGINT) == 0, "raise");
      return Result<>{};
    }));
    check(error.code == Code::kInterrupted, error.context);
  });
  EXPECT_EQ(child.failure(), "");
}

}  // namespace
}  // namespace volt::test
