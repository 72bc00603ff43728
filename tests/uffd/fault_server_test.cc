#include "uffd/fault_server.h"

#include <fcntl.h>
#include <unistd.h>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

using FaultServerTest = UffdTest;

// Reads clones on two threads each, in different orders, and wants every word right.
void read_all(std::span<const std::unique_ptr<Clone>> clones) {
  std::atomic<std::uint64_t> wrong = 0;
  std::vector<std::thread> readers;
  std::uint64_t start = 0;
  for (const auto& clone : clones) {
    for (int i = 0; i < 2; ++i) {
      readers.emplace_back([&, begin = start += 97] { wrong += wrong_words(*clone, begin); });
    }
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0u);
}

std::vector<std::unique_ptr<Clone>> clones_of(FaultServer& server, int count) {
  std::vector<std::unique_ptr<Clone>> clones;
  for (int i = 0; i < count; ++i) clones.push_back(std::make_unique<Clone>(server));
  return clones;
}

// A server whose source counts what it is asked.
std::unique_ptr<FaultServer> counting_server(const std::shared_ptr<Asked>& asked) {
  return serve(std::make_unique<DirectSource>([asked](std::uint64_t unit, UnitSink& done) {
    const UnitRange one[1] = {{.first = unit, .count = 1}};
    asked->note(one);
    done.filled(unit, unit_bytes(unit));
  }));
}

TEST_F(FaultServerTest, EveryReaderSeesTheSourcesBytesAndEachUnitIsAskedForOnce) {
  const auto asked = std::make_shared<Asked>();
  const auto server = counting_server(asked);
  {
    const auto clones = clones_of(*server, 3);
    read_all(clones);
  }
  for (std::uint64_t unit = 0; unit < kUnits; ++unit) EXPECT_EQ(asked->times(unit), 1) << unit;
  EXPECT_EQ(server->counts().units_filled, kUnits);
  EXPECT_EQ(server->counts().units_failed, 0u);
  EXPECT_FALSE(server->failure());
}

TEST_F(FaultServerTest, UnitsThatNobodyTouchesAreNotAskedFor) {
  const auto asked = std::make_shared<Asked>();
  const auto server = counting_server(asked);
  const Clone clone(*server);
  expect_unit(clone, 5);
  EXPECT_EQ(asked->times(5), 1);
  EXPECT_EQ(asked->times(4), 0);
  EXPECT_EQ(asked->times(6), 0);
}

TEST_F(FaultServerTest, ALaterCloneFindsWhatAnEarlierOneBroughtIn) {
  const auto asked = std::make_shared<Asked>();
  const auto server = counting_server(asked);
  {
    expect_unit(Clone(*server), 3);
  }
  const std::uint64_t faults = server->counts().faults;
  expect_unit(Clone(*server), 3);
  EXPECT_EQ(asked->times(3), 1);
  EXPECT_EQ(server->counts().faults, faults);
}

TEST_F(FaultServerTest, WhatOneCloneWritesNoOtherSees) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone one(*server), two(*server);
  one.unit(2)[100] = std::byte{0xEE};
  one.unit(7)[0] = std::byte{0xEE};
  expect_unit(two, 2);
  expect_unit(two, 7);
  expect_unit(Clone(*server), 2);
  EXPECT_EQ(one.unit(2)[100], std::byte{0xEE});
}

TEST_F(FaultServerTest, ACloneMayShowAPartOfTheImage) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone part(*server, 4 * kUnit, 10 * kUnit);
  std::vector<std::byte> got;
  ASSERT_TRUE(part.read(3, got));
  EXPECT_EQ(got, unit_bytes(13));
  ASSERT_TRUE(part.read(0, got));
  EXPECT_EQ(got, unit_bytes(10));
}

// The source answers on its own thread, the last request first.
TEST_F(FaultServerTest, AnswersMayComeLateAndInAnyOrder) {
  auto source = std::make_unique<LaterSource>(good_units());
  source->release_at(4);  // readers enough are waiting by then: six, each in another unit
  const auto server = serve(std::move(source));
  const auto clones = clones_of(*server, 3);
  read_all(clones);
  EXPECT_EQ(server->counts().units_filled, kUnits);
}

TEST_F(FaultServerTest, HoweverManyThreadsWaitForAUnitItIsAskedForOnceAndAllGoOn) {
  const auto asked = std::make_shared<std::atomic<int>>(0);
  auto source = std::make_unique<LaterSource>([asked](std::uint64_t unit, UnitSink& done) {
    ++*asked;
    done.filled(unit, unit_bytes(unit));
  });
  LaterSource& later = *source;
  const auto server = serve(std::move(source));
  const auto clones = clones_of(*server, 3);
  std::vector<std::thread> readers;
  for (const auto& clone : clones) {
    for (int i = 0; i < 2; ++i) readers.emplace_back([&clone] { expect_unit(*clone, 9); });
  }
  while (server->counts().faults < readers.size()) std::this_thread::yield();
  later.release_at(1);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(*asked, 1);
  EXPECT_EQ(server->counts().units_filled, 1u);
}

TEST_F(FaultServerTest, ClonesComeAndGoWhileOthersFault) {
  const auto server = serve(std::make_unique<LaterSource>(good_units()));
  // Answers at once, but on another thread.
  auto source = std::make_unique<LaterSource>(good_units());
  source->release_at(1);
  const auto busy = serve(std::move(source));
  std::atomic<bool> done = false;
  std::thread visitors([&] {
    for (std::uint64_t i = 0; !done || i < 20; ++i) expect_unit(Clone(*busy), i * 7 % kUnits);
  });
  for (int round = 0; round < 3; ++round) read_all(clones_of(*busy, 2));
  done = true;
  visitors.join();
  EXPECT_FALSE(busy->failure());
}

TEST_F(FaultServerTest, ViewsNotMadeOfWholeUnitsOfTheImageAreRefused) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Mapping map =
      Mapping::create(2 * kUnit, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "views").value();
  const View kWrong[] = {
      {map.bytes().first(kUnit), kPage},
      {map.bytes().first(kPage), 0},
      {map.bytes().first(kUnit + kPage), 0},
      {map.bytes(), (kUnits - 1) * kUnit},
      {map.bytes(), kUnits * kUnit},
      {map.bytes(), (kUnits + 1) * kUnit},
      {map.bytes(), ~std::uint64_t{0} / kUnit * kUnit},
  };
  for (const View& view : kWrong) {
    const auto attached = server->attach(Userfaultfd::open().value(), {view});
    ASSERT_FALSE(attached) << view.host.size() << " at " << view.image_offset;
    EXPECT_EQ(attached.error().code, Code::kInvalid);
  }
}

// A clone whose page is still on its way goes: its reader stops, and the answer, which comes when
// the server itself is being destroyed, finds nobody and does no harm.
TEST_F(FaultServerTest, ACloneMayGoWhileItsPageIsOnItsWay) {
  auto source = std::make_unique<LaterSource>(good_units());
  LaterSource& later = *source;
  auto server = serve(std::move(source));
  Clone clone(*server);
  std::thread reader([&] { expect_lost(clone, 4); });
  later.await(1);
  clone.leave();
  reader.join();
  server.reset();
}

// 64 clones over 4 threads; each clone is read whole by a thread of its own while units come from
// another one.
TEST_F(FaultServerTest, ManyClonesOverSeveralThreadsAllSeeTheirBytes) {
  auto source = std::make_unique<LaterSource>(good_units());
  source->release_at(1);
  const auto server = serve(std::move(source), {.threads = 4});
  std::atomic<std::uint64_t> wrong = 0;
  std::vector<std::thread> readers;
  for (std::uint64_t i = 0; i < 64; ++i) {
    readers.emplace_back([&, i] {
      const CloneOptions::Kind kinds[] = {CloneOptions::Kind::kShared,
                                          CloneOptions::Kind::kIsolated};
      const Clone clone(*server, {.kind = kinds[i % 2]});
      wrong += wrong_words(clone, i * 11);
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(server->counts().units_filled, kUnits);
  EXPECT_FALSE(server->failure());
}

TEST_F(FaultServerTest, AServerNeedsAThreadAndNotTooMany) {
  for (const std::size_t threads : {std::size_t{0}, std::size_t{65}}) {
    const auto started =
        FaultServer::start(SharedImage::create(kUnit, kUnit).value(),
                           std::make_unique<DirectSource>(good_units()), {.threads = threads});
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, Code::kInvalid);
  }
}

// The pager before it read the message, and died.
TEST_F(FaultServerTest, AFaultThatWasReadAndNeverAnsweredIsServed) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Mapping map =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0, "orphan").value();
  Userfaultfd uffd = Userfaultfd::open().value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  std::thread reader([&] { EXPECT_TRUE(std::ranges::equal(map.bytes(), unit_bytes(0))); });
  uffd_msg messages[1];
  while (uffd.read_messages(messages).value() == 0) std::this_thread::yield();
  const std::uint64_t id = server->attach(std::move(uffd), {{map.bytes(), 0}}).value();
  reader.join();
  server->forget(id);
  ::mmap(map.data(), kUnit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  server->detach(id);
}

// It makes its userfaultfd blocking behind the server's back: nothing can be read of it any more.
TEST_F(FaultServerTest, ACloneThatMisbehavesIsDroppedAndCostsOthersNothing) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  Userfaultfd uffd = Userfaultfd::open().value();
  const Mapping map =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0, "bad").value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  const Fd kept{::dup(uffd.fd())};
  const std::uint64_t id = server->attach(std::move(uffd), {{map.bytes(), 0}}).value();
  ASSERT_EQ(::fcntl(kept.get(), F_SETFL, 0), 0);
  std::thread bad([&] { static_cast<void>(guarded([&] { peek(map.data()); })); });
  while (!server->failure()) std::this_thread::yield();
  EXPECT_EQ(server->failure()->context, "a userfaultfd that cannot be read");
  expect_unit(Clone(*server), 0);
  ::mmap(map.data(), kUnit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  server->detach(id);
  uffdio_range all = {reinterpret_cast<std::uintptr_t>(map.data()), kUnit};
  EXPECT_EQ(::ioctl(kept.get(), UFFDIO_WAKE, &all), 0);
  bad.join();
}

TEST_F(FaultServerTest, AServerThatWasNeverAskedEnds) {
  const auto server = serve(std::make_unique<LaterSource>(good_units()));
  const Clone clone(*server);
}

}  // namespace
}  // namespace volt::uffd
