// Sources that answer when they like: prefetch and what overtakes it, answers that come too late or
// never, and clones that go meanwhile.
#include "tests/uffd/hand_source.h"

namespace volt::uffd {
namespace {

using WaitingTest = UffdTest;

TEST_F(WaitingTest, PrefetchAsksForWhatIsAbsentInRangesAndOnlyOnce) {
  Hand hand;
  const UnitRange wanted[] = {{3, 2}, {5, 1}, {20, 1}, {4, 3}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  const std::vector<Ask> asks = {
      {{3, 3}, Priority::kPrefetch}, {{20, 1}, Priority::kPrefetch}, {{6, 1}, Priority::kPrefetch}};
  EXPECT_EQ(hand.book->all(), asks);
  ASSERT_TRUE(hand.server->prefetch(wanted));
  EXPECT_EQ(hand.book->all().size(), 3u);
  EXPECT_EQ(hand.server->counts().prefetched, 5u);
  EXPECT_EQ(hand.server->counts().faults, 0u);
}

TEST_F(WaitingTest, PrefetchOfUnitsThatTheImageLacksIsRefusedWhole) {
  Hand hand;
  for (const UnitRange& bad :
       {UnitRange{kUnits, 1}, UnitRange{kUnits - 1, 2}, UnitRange{1, ~std::uint64_t{0}}}) {
    const UnitRange wanted[] = {{0, 1}, bad};
    const Result<> asked = hand.server->prefetch(wanted);
    ASSERT_FALSE(asked);
    EXPECT_EQ(asked.error().code, Code::kInvalid);
  }
  EXPECT_TRUE(hand.book->all().empty());
}

TEST_F(WaitingTest, APrefetchedUnitIsFoundWithoutAFault) {
  Hand hand;
  const UnitRange wanted[] = {{8, 1}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  hand.book->fill(8);
  const Clone clone(*hand.server);
  expect_unit(clone, 8);
  const FaultCounts counts = hand.server->counts();
  EXPECT_EQ(counts.faults, 0u);
  EXPECT_EQ(counts.units_filled, 1u);
  EXPECT_EQ(counts.prefetch_hits, 0u) << "nothing told the server";
}

TEST_F(WaitingTest, ADemandOvertakesAPrefetchOnceAndIsAHit) {
  Hand hand;
  const Clone clone(*hand.server), other(*hand.server);
  const UnitRange wanted[] = {{8, 2}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  std::thread one([&] { expect_unit(clone, 9); });
  hand.book->await(2);
  std::thread two([&] { expect_unit(other, 9); });
  while (hand.server->counts().faults < 2) std::this_thread::yield();
  EXPECT_EQ(hand.book->all().back(), demand(9));
  EXPECT_EQ(hand.book->all().size(), 2u) << "it was asked for with priority already";
  hand.book->fill(9);
  hand.book->fill(8);
  one.join();
  two.join();
  const FaultCounts counts = hand.server->counts();
  EXPECT_EQ(counts.overtakes, 1u);
  EXPECT_EQ(counts.prefetch_hits, 1u);
  EXPECT_EQ(counts.prefetched, 2u);
  EXPECT_EQ(counts.units_filled, 2u);
}

TEST_F(WaitingTest, AnAnswerThatComesTwiceIsTakenOnce) {
  Hand hand;
  const UnitRange wanted[] = {{8, 1}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  hand.book->fill(8);
  hand.book->fill(8);
  hand.book->fail(8, "too late");
  expect_unit(Clone(*hand.server), 8);
  EXPECT_EQ(hand.server->counts().units_filled, 1u);
  EXPECT_FALSE(hand.server->failure());
}

TEST_F(WaitingTest, AnAnswerThatNobodyAskedForIsIgnored) {
  Hand hand;
  const UnitRange wanted[] = {{8, 1}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  for (const std::uint64_t unit : {std::uint64_t{7}, kUnits, ~std::uint64_t{0}}) {
    hand.book->asker().filled(unit, unit_bytes(7));
    hand.book->fail(unit, "unasked");
  }
  EXPECT_EQ(hand.server->counts().units_filled, 0u);
  EXPECT_FALSE(hand.server->failure());
}

// Nobody needs it yet: whoever does asks again, and has the reason then.
TEST_F(WaitingTest, APrefetchThatFailsLosesNothing) {
  Hand hand;
  const UnitRange wanted[] = {{8, 1}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  hand.book->fail(8, "busy");
  EXPECT_FALSE(hand.server->failure());
  const Clone clone(*hand.server);
  std::thread reader([&] { expect_unit(clone, 8); });
  hand.book->await(2);
  EXPECT_EQ(hand.book->all().back(), demand(8));
  hand.book->fill(8);
  reader.join();
  EXPECT_EQ(hand.server->counts().units_failed, 0u);
}

TEST_F(WaitingTest, AUnitThatDoesNotComeInTimeIsLostAndSaysSo) {
  Hand hand({.deadline_ms = 20});
  const Clone clone(*hand.server);
  expect_lost(clone, 6);
  ASSERT_TRUE(hand.server->failure(clone.id()));
  EXPECT_EQ(hand.server->failure(clone.id())->code, Code::kPageLost);
  EXPECT_EQ(hand.server->failure(clone.id())->context,
            "image unit 6: its source did not answer within 20 ms");
  EXPECT_EQ(hand.server->counts().units_failed, 1u);
  hand.book->fill(6);  // too late
  expect_lost(clone, 6);
  const Clone later(*hand.server);
  expect_lost(later, 6);
  EXPECT_EQ(hand.server->counts().units_filled, 0u);
  EXPECT_EQ(hand.book->all().size(), 1u);
}

TEST_F(WaitingTest, OnlyWhatSomebodyWaitsForHasADeadline) {
  Hand hand({.deadline_ms = 20});
  const Clone clone(*hand.server);
  const UnitRange wanted[] = {{6, 1}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  expect_lost(clone, 5);  // a deadline passed meanwhile
  hand.book->fill(6);
  expect_unit(clone, 6);
}

TEST_F(WaitingTest, WithoutADeadlineAnAnswerMayTakeAnyTime) {
  Hand slow({.deadline_ms = 0}), quick({.deadline_ms = 5});
  const Clone clone(*slow.server), other(*quick.server);
  std::thread reader([&] { expect_unit(clone, 6); });
  slow.book->await(1);
  for (std::uint64_t unit = 0; unit < 4; ++unit) expect_lost(other, unit);
  slow.book->fill(6);
  reader.join();
}

// Its reader is stuck until the userfaultfd is closed: by then its memory is somebody else's.
TEST_F(WaitingTest, AForgottenCloneIsNotTouchedAgain) {
  Hand hand;
  Clone clone(*hand.server), other(*hand.server);
  std::thread reader([&] { expect_lost(clone, 4); });
  hand.book->await(1);
  hand.server->forget(clone.id());
  std::thread late([&] { expect_lost(clone, 7); });  // its message is not even read
  hand.book->fail(4, "gone");                        // would make the range inaccessible
  std::byte* const at = clone.unit(4).data();
  EXPECT_EQ(
      ::mmap(at, kUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
      at);
  *at = std::byte{1};
  std::thread third([&] { expect_unit(other, 3); });
  hand.book->await(2);
  hand.book->fill(3);
  third.join();
  EXPECT_EQ(*at, std::byte{1});
  EXPECT_EQ(hand.book->all().size(), 2u);
  clone.leave();
  reader.join();
  late.join();
}

// Those who waited are gone; the unit comes all the same, and its deadline counts for nobody.
TEST_F(WaitingTest, AUnitWhoseWaitersAreGoneIsNotLost) {
  Hand hand({.deadline_ms = 20});
  Clone clone(*hand.server);
  std::thread reader([&] { expect_lost(clone, 4); });
  hand.book->await(1);
  clone.leave();
  reader.join();
  const Clone other(*hand.server);
  expect_lost(other, 5);  // a deadline passed meanwhile
  hand.book->fill(4);
  expect_unit(other, 4);
}

}  // namespace
}  // namespace volt::uffd
