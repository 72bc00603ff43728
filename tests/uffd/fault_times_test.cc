// The times of faults: what the histogram keeps of a number, and that a server adds each fault of
// its clones once. No test here says how long anything takes.
#include "uffd/fault_times.h"

#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

TEST(FaultTimesTest, NothingRecordedIsZeroEverywhere) {
  const FaultTimes times;
  EXPECT_EQ(times.count(), 0u);
  EXPECT_EQ(times.quantile_ns(0.5), 0u);
  EXPECT_EQ(times.max_ns(), 0u);
}

TEST(FaultTimesTest, EveryNumberIsKeptToTwoPerCent) {
  for (std::uint64_t ns = 1; ns < std::uint64_t{1} << 39; ns += ns / 7 + 1) {
    FaultTimes times;
    times.record(ns);
    times.record(ns * 3);  // so that the first is not the largest, which is kept exactly
    const auto kept = static_cast<double>(times.quantile_ns(0));
    EXPECT_LE(std::abs(kept - static_cast<double>(ns)), static_cast<double>(ns) * 0.02) << ns;
    EXPECT_EQ(times.max_ns(), ns * 3);
  }
}

TEST(FaultTimesTest, QuantilesAreInOrderAndWhatIsTooLongIsNotLost) {
  FaultTimes times;
  for (std::uint64_t i = 1; i <= 1000; ++i) times.record(i * 1000);
  times.record(UINT64_MAX);
  EXPECT_EQ(times.count(), 1001u);
  EXPECT_EQ(times.max_ns(), UINT64_MAX);
  EXPECT_NEAR(static_cast<double>(times.quantile_ns(0.5)), 500'000, 10'000);
  EXPECT_NEAR(static_cast<double>(times.quantile_ns(0.9)), 900'000, 20'000);
  EXPECT_NEAR(static_cast<double>(times.quantile_ns(0.99)), 990'000, 20'000);
  EXPECT_GT(times.quantile_ns(1), 990'000u);
}

TEST(FaultTimesTest, ThreadsLoseNothing) {
  FaultTimes times;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&times, t] {
        for (std::uint64_t i = 0; i < 10'000; ++i) times.record(t * 10'000 + i);
      });
    }
  }
  EXPECT_EQ(times.count(), 40'000u);
  EXPECT_EQ(times.max_ns(), 39'999u);
}

using TimedFaultsTest = UffdTest;

TEST_F(TimedFaultsTest, EachFaultIsTimedOnceWhoeverAnswersIt) {
  for (const bool at_once : {true, false}) {
    const auto times = std::make_shared<FaultTimes>();
    auto later = std::make_unique<LaterSource>(good_units());
    later->release_at(1);
    std::unique_ptr<PageSource> source = std::move(later);
    if (at_once) source = std::make_unique<DirectSource>(good_units());
    auto server = serve(std::move(source), {.times = times});
    {
      const Clone clone(*server);
      for (std::uint64_t unit = 0; unit < kUnits; ++unit) expect_unit(clone, unit);
    }
    const std::uint64_t faults = server->counts().faults;
    server.reset();  // its threads have ended: nothing is still to be recorded
    EXPECT_GE(faults, kUnits);
    EXPECT_EQ(times->count(), faults);
    EXPECT_LE(times->quantile_ns(0.5), times->max_ns());
  }
}

}  // namespace
}  // namespace volt::uffd
