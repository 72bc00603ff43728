// Clones whose first touches are written down: each page, in order, once.
#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

using RecordingTest = UffdTest;
using Touch = Recording::Touch;

CloneOptions recorded(std::size_t pages) {
  return {.kind = CloneOptions::Kind::kRecording, .recorded_pages_max = pages};
}

constexpr std::size_t kPlenty = kUnits * kUnit / kPage;

void read_page(const Clone& clone, std::uint64_t page) {
  std::uint64_t word;
  std::memcpy(&word, clone.bytes().data() + page * kPage + 8, 8);
  EXPECT_EQ(word, word_at(page * kPage / 8 + 1));
}

TEST_F(RecordingTest, FirstTouchesAreKeptInOrderWithWhetherTheyWrote) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone clone(*server, recorded(kPlenty));
  read_page(clone, 40);
  clone.bytes()[3 * kPage] = std::byte{1};
  read_page(clone, 41);  // the same unit as 40: it is in the image, and still a touch of its own
  read_page(clone, 40);
  clone.bytes()[41 * kPage] = std::byte{1};  // not the first
  read_page(clone, 4);
  const Recording recording = server->take_recording(clone.id());
  const std::vector<Touch> expected = {
      {40 * kPage, false}, {3 * kPage, true}, {41 * kPage, false}, {4 * kPage, false}};
  EXPECT_EQ(recording.touches, expected);
  EXPECT_TRUE(recording.complete);
  EXPECT_EQ(server->counts().units_filled, 2u);
}

TEST_F(RecordingTest, EveryPageIsRecordedOnceInTheOrderItWasTouched) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  expect_unit(Clone(*server), 7);  // what others brought in does not hide a touch
  const Clone clone(*server, recorded(kPlenty));
  std::vector<Touch> expected;
  for (std::uint64_t i = 0; i < kPlenty; ++i) {
    const std::uint64_t page = i * 101 % kPlenty;  // 101 is prime to it
    read_page(clone, page);
    expected.push_back({page * kPage, false});
  }
  EXPECT_EQ(server->take_recording(clone.id()).touches, expected);
}

TEST_F(RecordingTest, ManyThreadsTouchingLeaveNothingOut) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()), {.threads = 2});
  const Clone clone(*server, recorded(kPlenty));
  std::atomic<std::uint64_t> wrong = 0;
  std::vector<std::thread> readers;
  for (std::uint64_t i = 0; i < 4; ++i) {
    readers.emplace_back([&, i] { wrong += wrong_words(clone, i * 191); });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0u);
  std::set<std::uint64_t> pages;
  const Recording recording = server->take_recording(clone.id());
  for (const Touch& touch : recording.touches) pages.insert(touch.image_offset);
  EXPECT_EQ(recording.touches.size(), kPlenty);
  EXPECT_EQ(pages.size(), kPlenty);
}

TEST_F(RecordingTest, AFullRecordingSaysSoAndTheCloneGoesOnInUnits) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone clone(*server, recorded(3));
  for (const std::uint64_t page : {1u, 2u, 3u}) read_page(clone, page);
  EXPECT_EQ(server->counts().faults, 3u);
  for (std::uint64_t unit = 1; unit < kUnits; ++unit) expect_unit(clone, unit);
  EXPECT_EQ(server->counts().faults, 3u + kUnits - 1);
  const Recording recording = server->take_recording(clone.id());
  EXPECT_EQ(recording.touches.size(), 3u);
  EXPECT_FALSE(recording.complete);
}

TEST_F(RecordingTest, ItGoesOnFromWhereItWasTaken) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone clone(*server, recorded(kPlenty));
  read_page(clone, 9);
  EXPECT_EQ(server->take_recording(clone.id()).touches.size(), 1u);
  read_page(clone, 9);
  read_page(clone, 8);
  const std::vector<Touch> expected = {{8 * kPage, false}};
  EXPECT_EQ(server->take_recording(clone.id()).touches, expected);
  EXPECT_TRUE(server->take_recording(clone.id()).touches.empty());
}

// Offsets are those of the image, not of the clone.
TEST_F(RecordingTest, APartOfAnImageIsRecordedWhereItIsInTheImage) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone part(*server, 4 * kUnit, 10 * kUnit, recorded(kPlenty));
  EXPECT_EQ(static_cast<std::byte>(peek(part.bytes().data() + kUnit)), unit_bytes(11)[0]);
  const std::vector<Touch> expected = {{11 * kUnit, false}};
  EXPECT_EQ(server->take_recording(part.id()).touches, expected);
}

TEST_F(RecordingTest, ARecordingOfNoPagesIsRefused) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const auto attached = server->attach(Userfaultfd::open().value(), {}, recorded(0));
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code, Code::kInvalid);
}

TEST_F(RecordingTest, OtherClonesHaveNone) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  const Clone clone(*server);
  expect_unit(clone, 1);
  EXPECT_TRUE(server->take_recording(clone.id()).touches.empty());
  EXPECT_TRUE(server->take_recording(4711).touches.empty());
}

}  // namespace
}  // namespace volt::uffd
