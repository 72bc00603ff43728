// Units that cannot be had: whoever needs one stops, at once and every time; nobody reads zeros,
// nobody waits for ever, and everything else goes on.
#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

using LostUnitTest = UffdTest;

constexpr std::uint64_t kBad = 6;

void answer_all_but_one(std::uint64_t unit, UnitSink& done) {
  if (unit != kBad) return done.filled(unit, unit_bytes(unit));
  done.failed(unit, {Code::kCorrupt, 0, "unit 6: checksum differs"});
}

void expect_failure(const FaultServer& server, Code code, const std::string& part) {
  const std::optional<Error> failure = server.failure();
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->code, code);
  EXPECT_NE(failure->context.find(part), std::string::npos) << failure->context;
}

TEST_F(LostUnitTest, ItsReaderStopsAndTheServerSaysWhy) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone clone(*server);
  expect_lost(clone, kBad);
  expect_failure(*server, Code::kCorrupt, "unit 6: checksum differs");
  EXPECT_EQ(server->counts().units_failed, 1u);
  expect_lost(clone, kBad);
}

TEST_F(LostUnitTest, EveryPageOfItIsLostAndNoneBeside) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone clone(*server);
  expect_lost(clone, kBad);
  std::byte one[1];
  for (std::uint64_t page = 0; page < kUnit / kPage; ++page) {
    EXPECT_FALSE(guarded_copy(one, clone.unit(kBad).subspan(page * kPage, 1))) << page;
  }
  expect_unit(clone, kBad - 1);
  expect_unit(clone, kBad + 1);
}

TEST_F(LostUnitTest, OtherClonesStopToo) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone first(*server), second(*server);
  expect_lost(first, kBad);
  expect_lost(second, kBad);
  const Clone third(*server);  // one that was not there when it failed
  expect_lost(third, kBad);
  expect_unit(third, 0);
  EXPECT_EQ(server->counts().units_failed, 1u);
}

TEST_F(LostUnitTest, EveryThreadThatWaitsForItStops) {
  auto source = std::make_unique<LaterSource>(answer_all_but_one);
  LaterSource& later = *source;
  const auto server = serve(std::move(source));
  const Clone one(*server), two(*server);
  std::vector<std::thread> readers;
  for (const Clone* clone : {&one, &one, &two, &two}) {
    readers.emplace_back([clone] { expect_lost(*clone, kBad); });
  }
  while (server->counts().faults < readers.size()) std::this_thread::yield();
  later.release_at(1);
  for (std::thread& reader : readers) reader.join();
}

TEST_F(LostUnitTest, AWriterStopsAsAReaderDoes) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone clone(*server);
  const std::byte one[1] = {std::byte{1}};
  const Result<> put = guarded_copy(clone.unit(kBad).first(1), one);
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::kPageLost);
}

TEST_F(LostUnitTest, TheFirstReasonIsKept) {
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
    done.failed(unit, {Code::kSystem, EIO, "unit " + std::to_string(unit)});
  }));
  const Clone clone(*server);
  expect_lost(clone, 3);
  expect_lost(clone, 1);
  expect_failure(*server, Code::kSystem, "unit 3");
  EXPECT_EQ(server->counts().units_failed, 2u);
}

// Its source's thread is still answering when the server is destroyed. (A leak is the sign of a
// server that was destroyed first.)
TEST_F(LostUnitTest, AFailureMayComeWhileTheServerEnds) {
  auto source = std::make_unique<LaterSource>([](std::uint64_t unit, UnitSink& done) {
    done.failed(unit, {Code::kSystem, EIO, "a reason too long to be kept inside of a std::string"});
  });
  LaterSource& later = *source;
  auto server = serve(std::move(source));
  Clone clone(*server);
  std::thread reader([&] { expect_lost(clone, 4); });
  later.await(1);
  clone.leave();
  reader.join();
  server.reset();
}

// A source that gives too little would leave pages that no wake can bring in.
TEST_F(LostUnitTest, AnAnswerThatIsNotAWholeUnitLosesTheUnit) {
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
    done.filled(unit, std::span<const std::byte>(unit_bytes(unit)).first(kPage));
  }));
  const Clone clone(*server);
  expect_lost(clone, 2);
  expect_failure(*server, Code::kCorrupt, "image unit 2");
}

TEST_F(LostUnitTest, AnAnswerThatCannotBeReadLosesTheUnit) {
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
    const Mapping gone =
        Mapping::create(kUnit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "source").value();
    done.filled(unit, gone.bytes());
  }));
  const Clone clone(*server);
  expect_lost(clone, 2);
  expect_failure(*server, Code::kSystem, "UFFDIO_COPY");
}

// What somebody's stray read put there would be zeros for every clone.
TEST_F(LostUnitTest, AUnitWithAPlantedPageIsLostNotZero) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Mapping stray =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0, "stray").value();
  EXPECT_EQ(peek(stray.data() + 2 * kPage), 0);
  const Clone clone(*server);
  expect_lost(clone, 0);
  expect_failure(*server, Code::kCorrupt, "image unit 0");
  expect_unit(clone, 1);
}

}  // namespace
}  // namespace volt::uffd
