// Writers, removers and readers of one store at once, without a lock on the readers' way.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <thread>

#include "tests/snapshot/fake_snapshot.h"

namespace volt::test {
namespace {

using IfTaken = Store::IfTaken;

constexpr int kRounds = 100;
constexpr char kMemory[] = "/dev/shm";  // where syncing takes no time, races are close

// Runs every job in a thread of its own, all let go at once.
template <typename... Jobs>
void at_once(Jobs&&... jobs) {
  std::barrier start(static_cast<std::ptrdiff_t>(sizeof...(jobs)));
  std::vector<std::thread> threads;
  (threads.emplace_back([&start, job = std::forward<Jobs>(jobs)] {
    start.arrive_and_wait();
    job();
  }),
   ...);
  for (std::thread& thread : threads) thread.join();
}

TEST(StoreRaceTest, OfTwoWhoCreateOneNameOneWinsAndTheOtherHasAConflict) {
  const TempDir dir{kMemory};
  const Store store(dir.path());
  for (int round = 0; round < kRounds; ++round) {
    const auto name = named("n:" + std::to_string(round));
    Result<> outcome[2];
    const auto create = [&](int who) {
      outcome[who] = publish_fake(store, name.text() + char('0' + who), name, IfTaken::kRefuse);
    };
    at_once([&] { create(0); }, [&] { create(1); });
    ASSERT_NE(outcome[0].has_value(), outcome[1].has_value()) << "round " << round;
    const int winner = outcome[0] ? 0 : 1;
    EXPECT_EQ(outcome[1 - winner].error().code, Code::kConflict)
        << outcome[1 - winner].error().context;
    EXPECT_EQ(fake_content(store, name).value(), name.text() + char('0' + winner));
  }
  store.sweep();
  EXPECT_EQ(entries_of(store).size(), 2U * kRounds);
}

TEST(StoreRaceTest, OfTwoWhoReplaceOneNameOneIsThereAndBothSucceeded) {
  const TempDir dir{kMemory};
  const Store store(dir.path());
  for (int round = 0; round < kRounds; ++round) {
    const auto replace = [&](char who) {
      expect_ok(publish_fake(store, std::to_string(round) + who, named("n"), IfTaken::kReplace));
    };
    at_once([&] { replace('a'); }, [&] { replace('b'); });
    const std::string content = fake_content(store, named("n")).value();
    EXPECT_TRUE(content == std::to_string(round) + "a" || content == std::to_string(round) + "b");
  }
  store.sweep();
  EXPECT_EQ(entries_of(store).size(), 2U);
}

// While one thread replaces, removes and creates a name, a reader sees whole content or kNotFound;
// a name that nobody touches is there all the time.
TEST(StoreRaceTest, AReaderSeesAWholeSnapshotOrNoneWhileItIsRemovedAndMadeAgain) {
  const TempDir dir{kMemory};
  const Store store(dir.path());
  must(publish_fake(store, "steady", named("other"), IfTaken::kRefuse));
  std::atomic<bool> done = false;
  std::atomic<int> whole = 0;
  const auto write = [&] {
    // On a busy machine the reader may come late.
    for (int round = 0; round < kRounds || (whole == 0 && round < 100 * kRounds); ++round) {
      expect_ok(
          publish_fake(store, "whole" + std::to_string(round), named("n"), IfTaken::kReplace));
      if (round % 2 == 1) expect_ok(store.remove(named("n")));
    }
    done = true;
  };
  const auto read = [&] {
    while (!done) {
      const Result<std::string> content = fake_content(store, named("n"));
      if (content) {
        EXPECT_TRUE(content->starts_with("whole")) << "'" << *content << "'";
        ++whole;
      } else {
        EXPECT_EQ(content.error().code, Code::kNotFound) << content.error().context;
      }
      EXPECT_EQ(fake_content(store, named("other")).value_or("lost"), "steady");
      expect_ok(store.list());
    }
  };
  at_once(write, read);
  EXPECT_GT(whole, 0) << "the reader never met a snapshot, so nothing was tested";
}

TEST(StoreRaceTest, SweepersNeverTakeWhatAWriterIsPublishing) {
  const TempDir dir{kMemory};
  const Store store(dir.path());
  std::atomic<bool> done = false;
  const auto write = [&] {
    for (int round = 0; round < kRounds; ++round) {
      const auto name = named("n:" + std::to_string(round));
      expect_ok(publish_fake(store, name.text(), name, IfTaken::kRefuse));
      EXPECT_EQ(fake_content(store, name).value_or("lost"), name.text());
    }
    done = true;
  };
  const auto sweep = [&] {
    while (!done) store.sweep();
  };
  at_once(write, sweep);
  for (int round = 0; round < kRounds; ++round) {
    const auto name = named("n:" + std::to_string(round));
    EXPECT_EQ(fake_content(store, name).value(), name.text());
  }
}

// Removal waits for nobody: one reader opened the directory before it, and reads on or is told.
TEST(StoreRaceTest, OfTwoWhoRemoveOneNameOneIsToldThatItIsGone) {
  const TempDir dir{kMemory};
  const Store store(dir.path());
  for (int round = 0; round < kRounds; ++round) {
    must(publish_fake(store, std::to_string(round), named("n"), IfTaken::kRefuse));
    Result<> outcome[2];
    at_once([&] { outcome[0] = store.remove(named("n")); },
            [&] { outcome[1] = store.remove(named("n")); });
    ASSERT_NE(outcome[0].has_value(), outcome[1].has_value());
    EXPECT_EQ((outcome[0] ? outcome[1] : outcome[0]).error().code, Code::kNotFound);
  }
  store.sweep();
  EXPECT_TRUE(entries_of(store).empty());
}

}  // namespace
}  // namespace volt::test
