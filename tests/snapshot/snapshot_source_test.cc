// The page source of a snapshot: the same bytes from every engine and storage, each unit answered
// once, demands first.
#include "snapshot/snapshot_source.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <map>

#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using snapshot::OpenedSnapshot;
using snapshot::SnapshotSource;
using snapshot::SourceCounts;
using snapshot::SourceOptions;
using uffd::Priority;
using uffd::UnitRange;

// Keeps every answer, and may hold the first one back.
class Answers final : public uffd::UnitSink {
 public:
  void filled(std::uint64_t unit, std::span<const std::byte> bytes) override {
    std::unique_lock lock(mutex_);
    EXPECT_FALSE(closed_) << "an answer after the source was gone";
    order_.push_back(unit);
    bytes_[unit].assign(bytes.begin(), bytes.end());
    ++times_[unit];
    changed_.notify_all();
    if (hold_first_ && order_.size() == 1) changed_.wait(lock, [&] { return !hold_first_; });
  }
  void failed(std::uint64_t unit, Error why) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(closed_) << "an answer after the source was gone";
    errors_.emplace(unit, std::move(why));
    ++times_[unit];
    changed_.notify_all();
  }

  void wait_for(std::size_t units) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return times_.size() >= units; });
  }
  void hold_first() { hold_first_ = true; }
  void let_go() {
    const std::lock_guard lock(mutex_);
    hold_first_ = false;
    changed_.notify_all();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  std::vector<std::uint64_t> order() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  bool has(std::uint64_t unit) const {
    const std::lock_guard lock(mutex_);
    return times_.contains(unit);
  }
  // Once all has been answered.
  const std::map<std::uint64_t, std::vector<std::byte>>& bytes() const { return bytes_; }
  const std::map<std::uint64_t, Error>& errors() const { return errors_; }
  void expect_each_once() const {
    for (const auto& [unit, times] : times_) EXPECT_EQ(times, 1) << "unit " << unit;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> order_;
  std::map<std::uint64_t, std::vector<std::byte>> bytes_;
  std::map<std::uint64_t, Error> errors_;
  std::map<std::uint64_t, int> times_;
  bool hold_first_ = false;
  bool closed_ = false;
};

enum class Cache { kWarm, kCold };

struct Way {
  AsyncReader::Engine engine;
  bool direct;
  bool packed;
};

class SnapshotSourceTest : public SnapshotTest, public testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::unique_ptr<Sandbox> guest = boot_kv();
    write_memory(*guest, kSpare, text_bytes(2 * kMiB, 1));
    must(snapshot::capture(kvm(), *guest, store(), named("kv"), {.unit_bytes = kUnit}));
    if (GetParam().packed) pack(store(), "kv", {.level = 1, .threads = 2});
    captured_ = memory_of(*guest);
    opened_ =
        std::make_shared<const OpenedSnapshot>(must(OpenedSnapshot::open(store(), named("kv"))));
  }

  static constexpr std::uint64_t kUnit = 4096;

  SourceOptions options(unsigned threads = 2) const {
    return {.threads = threads, .engine = GetParam().engine, .direct = GetParam().direct};
  }
  std::unique_ptr<SnapshotSource> start(unsigned threads = 2) const {
    return std::make_unique<SnapshotSource>(opened_, options(threads));
  }
  const Fd& data_file() const {
    return opened_->is_raw() ? opened_->memory() : opened_->containers()[0].file;
  }
  std::string data_path() const {
    return opened_->is_raw() ? file("kv", snapshot::kMemoryFile)
                             : file("kv", opened_->containers()[0].name.c_str());
  }
  // False where the file system keeps what it was told to drop.
  bool make_cold() const {
    must(sync(data_file(), "data"));
    if (::posix_fadvise(data_file().get(), 0, 0, POSIX_FADV_DONTNEED) != 0) return false;
    const auto last = opened_->index().entry_count() - 1;
    const auto place = must(snapshot::place_of(*opened_, opened_->index(), last));
    const Mapping mapped = must(Mapping::create(must(file_size(data_file(), "data")), PROT_READ,
                                                MAP_SHARED, data_file().get(), 0, "data"));
    unsigned char page = 1;
    return ::mincore(mapped.data() + place.offset / 4096 * 4096, 1, &page) == 0 && page == 0;
  }
  // Keeps the data file in the page cache: a host short of memory drops what it likes. Nothing
  // where this process may not lock that much.
  std::optional<Mapping> keep_warm() const {
    Mapping mapped = must(Mapping::create(must(file_size(data_file(), "data")), PROT_READ,
                                          MAP_SHARED, data_file().get(), 0, "data"));
    if (::mlock(mapped.data(), mapped.size()) != 0) return std::nullopt;
    return mapped;
  }
  std::uint64_t all_units() const { return captured_.size() / kUnit; }
  // Image units that are stored, the last first: no two of their reads can be one.
  std::vector<UnitRange> stored_units() const {
    std::vector<UnitRange> units;
    for (std::uint64_t i = opened_->index().entry_count(); i-- > 0;) {
      units.push_back({must(opened_->index().at(i)).place / kUnit, 1});
    }
    return units;
  }
  void expect_right(const Answers& answers) const {
    for (const auto& [unit, bytes] : answers.bytes()) {
      ASSERT_EQ(std::memcmp(bytes.data(), captured_.data() + unit * kUnit, kUnit), 0) << unit;
    }
    answers.expect_each_once();
  }
  const OpenedSnapshot& opened() const { return *opened_; }

 private:
  std::vector<std::byte> captured_;
  std::shared_ptr<const OpenedSnapshot> opened_;
};

constexpr auto kRing = AsyncReader::Engine::kIoUring;
constexpr auto kThreads = AsyncReader::Engine::kThreads;

INSTANTIATE_TEST_SUITE_P(EveryWay, SnapshotSourceTest,
                         testing::Values(Way{kRing, true, true}, Way{kRing, false, true},
                                         Way{kThreads, true, true}, Way{kThreads, false, true},
                                         Way{kRing, true, false}, Way{kThreads, false, false}),
                         [](const auto& each) {
                           const Way& way = each.param;
                           return std::string(engine_name(way.engine)) +
                                  (way.direct ? "Direct" : "Cached") +
                                  (way.packed ? "Packed" : "Raw");
                         });

TEST_P(SnapshotSourceTest, EveryUnitIsAnsweredOnceAndRightHoweverItIsAskedFor) {
  for (const Priority priority : {Priority::kDemand, Priority::kPrefetch}) {
    for (const Cache cache : {Cache::kWarm, Cache::kCold}) {
      const bool cold = cache == Cache::kCold && make_cold();
      const auto warm = cache == Cache::kWarm ? keep_warm() : std::nullopt;
      Answers answers;
      const auto source = start();
      source->request({{{0, all_units()}}}, priority, answers);
      answers.wait_for(all_units());
      expect_right(answers);
      EXPECT_TRUE(answers.errors().empty());
      const SourceCounts counts = source->counts();
      EXPECT_EQ(counts.units_read, opened().index().entry_count());
      EXPECT_EQ(counts.units_verified, counts.units_read);
      EXPECT_EQ(counts.units_zero, all_units() - counts.units_read);
      EXPECT_EQ(counts.units_wasted, 0U);
      EXPECT_EQ(counts.units_decoded > 0, GetParam().packed);
      if (cold) {
        EXPECT_GT(counts.cold_reads, 0U);
        ASSERT_NE(source->engine(), nullptr);
      } else if (warm && priority == Priority::kDemand) {
        EXPECT_EQ(source->engine(), nullptr) << "read cold what was in the cache";
      }
    }
  }
}

TEST_P(SnapshotSourceTest, AColdReadUsesTheEngineThatWasAskedFor) {
  if (!make_cold()) GTEST_SKIP() << "this file system keeps what it was told to drop";
  Answers answers;
  const auto source = start();
  const auto units = stored_units();
  source->request(units, Priority::kDemand, answers);
  answers.wait_for(units.size());
  expect_right(answers);
  EXPECT_EQ(answers.bytes().size(), units.size());
  ASSERT_NE(source->engine(), nullptr);
  // A kernel may forbid io_uring; then it says threads.
  if (GetParam().engine == kThreads) {
    EXPECT_STREQ(source->engine(), "threads");
  }
  const SourceCounts counts = source->counts();
  EXPECT_EQ(counts.units_verified, units.size());
  EXPECT_EQ(counts.units_read, counts.units_verified + counts.units_wasted);
}

// The only worker is held inside its first answer: a warm demand is answered by who asks.
TEST_P(SnapshotSourceTest, AWarmDemandIsAnsweredBeforeRequestReturns) {
  const auto warm = keep_warm();
  Answers answers;
  answers.hold_first();
  const auto source = start(1);
  const auto units = stored_units();
  source->request(units, Priority::kPrefetch, answers);
  answers.wait_for(1);
  const std::uint64_t last = units.back().first;
  source->request({{{last, 1}}}, Priority::kDemand, answers);
  EXPECT_TRUE(answers.has(last));
  answers.let_go();
  answers.wait_for(units.size());
  expect_right(answers);
  const SourceCounts counts = source->counts();
  EXPECT_EQ(counts.units_verified, units.size());
  EXPECT_LE(counts.units_wasted, 1U);
}

TEST_P(SnapshotSourceTest, AColdDemandOvertakesTheQueueOfPrefetches) {
  if (!make_cold()) GTEST_SKIP() << "this file system keeps what it was told to drop";
  Answers answers;
  answers.hold_first();
  const auto source = start(1);
  const auto units = stored_units();
  ASSERT_GT(units.size(), 500U);
  source->request(units, Priority::kPrefetch, answers);
  answers.wait_for(1);
  const std::uint64_t last = units.back().first;
  source->request({{{last, 1}}}, Priority::kDemand, answers);
  answers.let_go();
  answers.wait_for(units.size());
  expect_right(answers);
  const auto order = answers.order();
  const auto place = std::ranges::find(order, last) - order.begin();
  EXPECT_LT(place, static_cast<std::ptrdiff_t>(order.size() / 2)) << "waited for the queue";
}

// Demands run into prefetches that wait, are being read, or are read: none is read a second time.
// The only worker is held inside its first answer meanwhile.
TEST_P(SnapshotSourceTest, ADemandForWhatIsOnItsWayReadsNothingAgain) {
  if (!make_cold()) GTEST_SKIP() << "this file system keeps what it was told to drop";
  Answers answers;
  answers.hold_first();
  const auto source = start(1);
  const std::vector<UnitRange> units = stored_units();
  source->request(units, Priority::kPrefetch, answers);
  answers.wait_for(1);
  for (const UnitRange& unit : units) {
    if (!answers.has(unit.first)) source->request({{unit}}, Priority::kDemand, answers);
  }
  answers.let_go();
  answers.wait_for(units.size());
  expect_right(answers);
  const SourceCounts counts = source->counts();
  EXPECT_EQ(counts.units_verified, units.size());
  // Without O_DIRECT the page cache may have by now what is still being read.
  if (GetParam().direct) {
    EXPECT_EQ(counts.units_read, units.size());
    EXPECT_EQ(counts.units_wasted, 0U);
  }
}

TEST_P(SnapshotSourceTest, AFileThatIsCutShortGivesErrorsWithFileAndPlaceAndNoHang) {
  const std::uint64_t half = std::filesystem::file_size(data_path()) / 2;
  const auto units = stored_units();
  cut_file(data_path(), half);
  for (const Priority priority : {Priority::kDemand, Priority::kPrefetch}) {
    Answers answers;
    const auto source = start();
    source->request({{{0, all_units()}}}, priority, answers);
    answers.wait_for(all_units());
    expect_right(answers);
    EXPECT_FALSE(answers.errors().empty());
    EXPECT_GT(answers.bytes().size(), answers.errors().size());
    const std::string name = std::filesystem::path(data_path()).filename();
    for (std::uint64_t i = 0; i < opened().index().entry_count(); ++i) {
      const auto place = must(snapshot::place_of(opened(), opened().index(), i));
      const std::uint64_t unit = must(opened().index().at(i)).place / kUnit;
      ASSERT_EQ(answers.errors().contains(unit), place.offset + place.stored_bytes > half) << i;
      if (!answers.errors().contains(unit)) continue;
      const Error& error = answers.errors().at(unit);
      EXPECT_EQ(error.code, Code::kCorrupt);
      EXPECT_TRUE(contains(error.context, name + ": unit ")) << error.context;
      EXPECT_TRUE(contains(error.context, "file offset " + std::to_string(place.offset)))
          << error.context;
    }
  }
}

TEST_P(SnapshotSourceTest, ADamagedUnitFailsAloneAndIsCounted) {
  const auto place = must(snapshot::place_of(opened(), opened().index(), 100));
  flip_bit(data_path(), place.offset * 8 + 77);
  Answers answers;
  const auto source = start();
  const auto units = stored_units();
  source->request(units, Priority::kPrefetch, answers);
  answers.wait_for(units.size());
  expect_right(answers);
  ASSERT_EQ(answers.errors().size(), 1U);
  const SourceCounts counts = source->counts();
  EXPECT_EQ(counts.units_read, counts.units_verified + counts.units_wasted + 1);
}

TEST_P(SnapshotSourceTest, ItMayGoWhileRequestsAreUnderWay) {
  const auto units = stored_units();
  for (int round = 0; round < 30; ++round) {
    Answers answers;
    make_cold();
    auto source = start();
    source->request(units, Priority::kPrefetch, answers);
    source->request({{{units[units.size() / 2].first, 1}}}, Priority::kDemand, answers);
    if (round % 2 == 0) answers.wait_for(static_cast<std::size_t>(round) + 1);
    source.reset();
    answers.close();
    expect_right(answers);
  }
}

TEST_P(SnapshotSourceTest, ManyThreadsMayAskAtOnce) {
  make_cold();
  Answers answers;
  const auto source = start(3);
  const auto units = stored_units();
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < units.size(); i += 4) {
        const Priority priority = i % 8 < 4 ? Priority::kDemand : Priority::kPrefetch;
        source->request(std::span(units).subspan(i, 1), priority, answers);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  answers.wait_for(units.size());
  expect_right(answers);
  EXPECT_EQ(source->counts().units_verified, units.size());
}

}  // namespace
}  // namespace volt::test
