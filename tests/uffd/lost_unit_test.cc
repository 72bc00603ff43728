// Units that cannot be had: whoever needs one stops, at once and every time; nobody reads zeros,
// nobody waits for ever, and everything else goes on.
#include <sys/wait.h>
#include <unistd.h>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

// Both ways of stopping access: with UFFDIO_POISON, and without it as on Linux 6.1.
class LostUnitTest : public UffdTest, public testing::WithParamInterface<LostPages> {
 protected:
  void SetUp() override {
    UffdTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) skip_unless_able(GetParam());
  }
  std::unique_ptr<FaultServer> serve(std::unique_ptr<PageSource> source) const {
    return uffd::serve(std::move(source), {.lost_pages = GetParam()});
  }
};

INSTANTIATE_TEST_SUITE_P(BothWays, LostUnitTest,
                         testing::Values(LostPages::kPoison, LostPages::kForbid), lost_pages_title);

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

TEST_P(LostUnitTest, ItsReaderStopsAndTheServerSaysWhy) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone clone(*server);
  expect_lost(clone, kBad);
  expect_failure(*server, Code::kCorrupt, "unit 6: checksum differs");
  EXPECT_EQ(server->counts().units_failed, 1u);
  expect_lost(clone, kBad);
}

TEST_P(LostUnitTest, EveryPageOfItIsLostAndNoneBeside) {
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

TEST_P(LostUnitTest, OtherClonesStopToo) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone first(*server), second(*server);
  expect_lost(first, kBad);
  expect_lost(second, kBad);
  const Clone third(*server);  // one that was not there when it failed
  expect_lost(third, kBad);
  expect_unit(third, 0);
  EXPECT_EQ(server->counts().units_failed, 1u);
}

// A clone that never needed the unit has lost nothing.
TEST_P(LostUnitTest, EachCloneKnowsItsOwnReason) {
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
    if (unit < 2) return done.failed(unit, {Code::kSystem, EIO, "file " + std::to_string(unit)});
    done.filled(unit, unit_bytes(unit));
  }));
  const Clone first(*server), second(*server), third(*server);
  expect_lost(first, 0);
  expect_lost(second, 1);
  expect_unit(third, 2);
  EXPECT_EQ(server->failure(first.id()).value().context, "image unit 0: file 0");
  EXPECT_EQ(server->failure(second.id()).value().context, "image unit 1: file 1");
  EXPECT_FALSE(server->failure(third.id()));
  EXPECT_EQ(server->failure().value().context, "image unit 0: file 0");
}

TEST_P(LostUnitTest, EveryThreadThatWaitsForItStops) {
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

TEST_P(LostUnitTest, AWriterStopsAsAReaderDoes) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone clone(*server);
  const std::byte one[1] = {std::byte{1}};
  const Result<> put = guarded_copy(clone.unit(kBad).first(1), one);
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::kPageLost);
}

TEST_P(LostUnitTest, TheFirstReasonIsKept) {
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
TEST_P(LostUnitTest, AFailureMayComeWhileTheServerEnds) {
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
TEST_P(LostUnitTest, AnAnswerThatIsNotAWholeUnitLosesTheUnit) {
  const auto server = serve(std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
    done.filled(unit, std::span<const std::byte>(unit_bytes(unit)).first(kPage));
  }));
  const Clone clone(*server);
  expect_lost(clone, 2);
  expect_failure(*server, Code::kCorrupt, "image unit 2");
}

TEST_P(LostUnitTest, AnAnswerThatCannotBeReadLosesTheUnit) {
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
TEST_P(LostUnitTest, AUnitWithAPlantedPageIsLostNotZero) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Mapping stray =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0, "stray").value();
  EXPECT_EQ(peek(stray.data() + 2 * kPage), 0);
  const Clone clone(*server);
  expect_lost(clone, 0);
  expect_failure(*server, Code::kCorrupt, "image unit 0");
  expect_unit(clone, 1);
}

// Clones that were there already, and clones that come later, could read what was planted without
// any fault; a child process plants it here.
TEST_P(LostUnitTest, APlantedPageIsKeptFromEveryClone) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Clone before(*server), reader(*server);
  const pid_t child = ::fork();
  if (child == 0) {
    void* const map = ::mmap(nullptr, kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0);
    ::_exit(map == MAP_FAILED ? 9 : peek(static_cast<std::byte*>(map) + 5 * kPage));
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0) << "the child read something but zero";
  expect_lost(reader, 0);
  expect_failure(*server, Code::kCorrupt, "a page was there before the pager put it there");
  const Clone after(*server);
  std::byte one[1];
  for (const Clone* clone : {&before, &reader, &after}) {
    for (std::uint64_t page = 0; page < kUnit / kPage; ++page) {
      EXPECT_FALSE(guarded_copy(one, clone->unit(0).subspan(page * kPage, 1))) << page;
    }
    expect_unit(*clone, 1);
  }
}

// One that had read the planted page by then keeps nothing of it: what is there already cannot be
// poisoned, so this is the case where the other way is taken.
TEST_P(LostUnitTest, APlantedPageThatACloneHasReadIsTakenFromIt) {
  const auto server = serve(std::make_unique<DirectSource>(answer_all_but_one));
  const Mapping stray =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE, server->image_fd(), 0, "stray").value();
  EXPECT_EQ(peek(stray.data() + 2 * kPage), 0);
  const Clone clone(*server);
  EXPECT_EQ(peek(clone.unit(0).data() + 2 * kPage), 0) << "no fault, so nobody could have known";
  expect_lost(clone, 0);
  std::byte one[1];
  EXPECT_FALSE(guarded_copy(one, clone.unit(0).subspan(2 * kPage, 1)));
}

}  // namespace
}  // namespace volt::uffd
