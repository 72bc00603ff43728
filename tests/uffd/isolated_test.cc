// Clones that see a page only when the server says so, whatever others have brought into the image.
#include <fcntl.h>
#include <unistd.h>

#include "tests/uffd/hand_source.h"

namespace volt::uffd {
namespace {

using IsolatedTest = UffdTest;

constexpr CloneOptions::Kind kIsolated = CloneOptions::Kind::kIsolated;

// How many pages this process's page table has in `range`.
std::size_t mapped_pages(std::span<const std::byte> range) {
  const Fd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  std::vector<std::uint64_t> entries(range.size() / kPage);
  const auto bytes = static_cast<ssize_t>(entries.size() * 8);
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(range.data()) / kPage * 8);
  EXPECT_EQ(::pread(pagemap.get(), entries.data(), static_cast<std::size_t>(bytes), at), bytes);
  return static_cast<std::size_t>(
      std::ranges::count_if(entries, [](std::uint64_t entry) { return entry >> 63 != 0; }));
}

TEST_F(IsolatedTest, WhatAnotherCloneBroughtInIsNotThereWithoutAnEvent) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone shared(*server), later(*server), isolated(*server, {.kind = kIsolated});
  expect_unit(shared, 3);
  ASSERT_EQ(server->counts().faults, 1u);
  expect_unit(later, 3);
  EXPECT_EQ(server->counts().faults, 1u) << "a shared one finds it";

  EXPECT_EQ(mapped_pages(isolated.unit(3)), 0u);
  expect_unit(isolated, 3);
  EXPECT_EQ(server->counts().faults, 2u) << "one event for the whole unit";
  EXPECT_EQ(server->counts().woken_only, 1u);
  EXPECT_EQ(server->counts().units_filled, 1u);
  EXPECT_EQ(mapped_pages(isolated.unit(3)), kUnit / kPage);
  EXPECT_EQ(mapped_pages(isolated.unit(4)), 0u);
}

TEST_F(IsolatedTest, AnAbsentUnitIsAskedForAndComesWhole) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone isolated(*server, {.kind = kIsolated});
  for (std::uint64_t unit = 0; unit < kUnits; ++unit) expect_unit(isolated, unit);
  EXPECT_EQ(server->counts().faults, kUnits);
  EXPECT_EQ(server->counts().units_filled, kUnits);
}

TEST_F(IsolatedTest, WhatItWritesStaysItsOwn) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone one(*server, {.kind = kIsolated}), other(*server, {.kind = kIsolated});
  one.unit(2)[100] = std::byte{0xEE};
  expect_unit(other, 2);
  expect_unit(Clone(*server), 2);
  EXPECT_EQ(one.unit(2)[100], std::byte{0xEE});
}

// Pages of a unit that it has already are left as they are.
TEST_F(IsolatedTest, AUnitOfWhichItHasAPartIsCompleted) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone isolated(*server, {.kind = kIsolated});
  isolated.unit(2)[5 * kPage] = std::byte{0xEE};
  for (const std::uint64_t page : {0u, 6u, 7u, 15u}) {
    ASSERT_EQ(::madvise(isolated.unit(2).data() + page * kPage, kPage, MADV_DONTNEED), 0);
  }
  EXPECT_EQ(mapped_pages(isolated.unit(2)), 12u);
  const std::uint64_t faults = server->counts().faults;
  EXPECT_EQ(static_cast<std::byte>(peek(isolated.unit(2).data() + 7 * kPage)),
            unit_bytes(2)[7 * kPage]);
  EXPECT_EQ(server->counts().faults, faults + 1);
  while (mapped_pages(isolated.unit(2)) < 16) std::this_thread::yield();  // it did not wait for all
  EXPECT_EQ(server->counts().faults, faults + 1);
  EXPECT_EQ(isolated.unit(2)[5 * kPage], std::byte{0xEE});
}

TEST_F(IsolatedTest, ItsFirstTouchOfAPrefetchedUnitIsAHit) {
  Hand hand;
  const UnitRange wanted[] = {{8, 2}};
  ASSERT_TRUE(hand.server->prefetch(wanted));
  hand.book->fill(8);
  hand.book->fill(9);
  const Clone one(*hand.server, {.kind = kIsolated}), other(*hand.server, {.kind = kIsolated});
  expect_unit(one, 8);
  expect_unit(other, 8);
  EXPECT_EQ(hand.server->counts().prefetch_hits, 1u);
  EXPECT_EQ(hand.server->counts().woken_only, 2u);
}

class IsolatedLossTest : public UffdTest, public testing::WithParamInterface<LostPages> {};

INSTANTIATE_TEST_SUITE_P(BothWays, IsolatedLossTest,
                         testing::Values(LostPages::kPoison, LostPages::kForbid), lost_pages_title);

TEST_P(IsolatedLossTest, ALostUnitStopsItAndNotItsNeighbours) {
  skip_unless_able(GetParam());
  if (IsSkipped()) return;
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
                              if (unit != 3) return done.filled(unit, unit_bytes(unit));
                              done.failed(unit, {Code::kCorrupt, 0, "file x"});
                            }),
                            {.lost_pages = GetParam()});
  const Clone isolated(*server, {.kind = kIsolated});
  expect_lost(isolated, 3);
  expect_lost(isolated, 3);
  expect_unit(isolated, 2);
  expect_unit(isolated, 4);
  EXPECT_EQ(server->failure(isolated.id())->context, "image unit 3: file x");
}

}  // namespace
}  // namespace volt::uffd
