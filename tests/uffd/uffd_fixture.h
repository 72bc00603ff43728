// Images, sources and clones for tests of the pager; none of them runs a VM.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "tests/kvm_fixture.h"
#include "uffd/fault_server.h"
#include "vmm/os/fault_guard.h"

namespace volt::uffd {

inline constexpr std::uint64_t kPage = kPageBytes;
inline constexpr std::uint64_t kUnit = 16 * kPage;
inline constexpr std::uint64_t kUnits = 48;

// Skipped, with the reason, where this user may not handle faults.
class UffdTest : public testing::Test {
 protected:
  void SetUp() override {
    const Result<Userfaultfd> opened = Userfaultfd::open();
    if (!opened) VOLT_HOST_UNABLE(opened.error());
  }
};

inline void skip_unless_able(LostPages way) {
  const Result<Userfaultfd> opened = Userfaultfd::open();
  if (way == LostPages::kPoison && (opened->offered() & abi::kFeaturePoison) == 0) {
    GTEST_SKIP() << "this kernel cannot poison pages";
  }
}

inline std::string lost_pages_title(const testing::TestParamInfo<LostPages>& info) {
  return info.param == LostPages::kPoison ? "poison" : "forbid";
}

// Word `index` of every image here; never 0.
constexpr std::uint64_t word_at(std::uint64_t index) {
  return (index + 1) * 0x9E37'79B9'7F4A'7C15 | 1;
}

inline std::vector<std::byte> unit_bytes(std::uint64_t unit) {
  std::vector<std::byte> bytes(kUnit);
  for (std::uint64_t i = 0; i < kUnit / 8; ++i) {
    const std::uint64_t word = word_at(unit * kUnit / 8 + i);
    std::memcpy(bytes.data() + i * 8, &word, 8);
  }
  return bytes;
}

// What a source is asked for, by unit; on any thread.
class Asked {
 public:
  void note(std::span<const UnitRange> units) {
    for (const UnitRange& range : units) {
      for (std::uint64_t i = 0; i < range.count; ++i) ++times_[range.first + i];
    }
  }
  int times(std::uint64_t unit) const { return times_[unit]; }

 private:
  std::array<std::atomic<int>, kUnits> times_ = {};
};

// Answers at once, on the thread that asks: `answer` is given each unit.
class DirectSource final : public PageSource {
 public:
  using Answer = std::function<void(std::uint64_t unit, UnitSink& done)>;
  explicit DirectSource(Answer answer) : answer_(std::move(answer)) {}

  void request(std::span<const UnitRange> units, Priority, UnitSink& done) override {
    for (const UnitRange& range : units) {
      for (std::uint64_t i = 0; i < range.count; ++i) answer_(range.first + i, done);
    }
  }

 private:
  Answer answer_;
};

inline DirectSource::Answer good_units() {
  return [](std::uint64_t unit, UnitSink& done) { done.filled(unit, unit_bytes(unit)); };
}

// Keeps what it is asked for; a thread of its own answers when it may, the last first. What is left
// when it is destroyed is answered then.
class LaterSource final : public PageSource {
 public:
  explicit LaterSource(DirectSource::Answer answer)
      : answer_(std::move(answer)), thread_([this] { work(); }) {}
  ~LaterSource() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void request(std::span<const UnitRange> units, Priority, UnitSink& done) override {
    const std::lock_guard lock(mutex_);
    done_ = &done;
    for (const UnitRange& range : units) {
      for (std::uint64_t i = 0; i < range.count; ++i) {
        std::erase(waiting_, range.first + i);  // asked for again: moved forward
        waiting_.push_back(range.first + i);
      }
    }
    changed_.notify_all();
  }

  // Answers once this many wait, and from then on.
  void release_at(std::size_t waiting) {
    const std::lock_guard lock(mutex_);
    release_at_ = waiting;
    changed_.notify_all();
  }
  void await(std::size_t waiting) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() >= waiting; });
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || waiting_.size() >= release_at_; });
      if (waiting_.empty() && ending_) return;
      release_at_ = 1;
      while (!waiting_.empty()) {
        const std::uint64_t unit = waiting_.back();
        waiting_.pop_back();
        UnitSink& done = *done_;
        lock.unlock();
        answer_(unit, done);
        lock.lock();
      }
    }
  }

  DirectSource::Answer answer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> waiting_;
  std::size_t release_at_ = SIZE_MAX;
  bool ending_ = false;
  UnitSink* done_ = nullptr;
  std::thread thread_;  // last: it uses all of the above
};

inline std::unique_ptr<FaultServer> serve(std::unique_ptr<PageSource> source,
                                          const FaultOptions& options = {}) {
  return FaultServer::start(SharedImage::create(kUnits * kUnit, kUnit).value(), std::move(source),
                            options)
      .value();
}

// A private mapping of [offset, offset + bytes) of the server's image, attached for as long as it
// lives.
class Clone {
 public:
  explicit Clone(FaultServer& server, std::uint64_t bytes = kUnits * kUnit,
                 std::uint64_t offset = 0, CloneOptions options = {})
      : server_(server),
        map_(Mapping::create(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, server.image_fd(), offset,
                             "clone")
                 .value()) {
    Userfaultfd uffd = Userfaultfd::open().value();
    EXPECT_TRUE(options.kind == CloneOptions::Kind::kShared
                    ? uffd.register_missing(map_.bytes())
                    : uffd.register_missing_and_minor(map_.bytes()));
    id_ = server
              .attach(std::move(uffd), {{.host = map_.bytes(), .image_offset = offset}},
                      std::move(options))
              .value();
  }
  Clone(FaultServer& server, CloneOptions options)
      : Clone(server, kUnits * kUnit, 0, std::move(options)) {}
  Clone(const Clone&) = delete;
  Clone& operator=(const Clone&) = delete;
  ~Clone() { leave(); }

  // Nothing is left where it was but addresses that nobody may touch.
  void leave() {
    if (left_) return;
    left_ = true;
    server_.forget(id_);
    EXPECT_NE(
        ::mmap(map_.data(), map_.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
        MAP_FAILED);
    server_.detach(id_);
  }

  std::uint64_t id() const { return id_; }
  std::span<std::byte> bytes() const { return map_.bytes(); }
  std::span<std::byte> unit(std::uint64_t unit) const {
    return map_.bytes().subspan(unit * kUnit, kUnit);
  }

  // Reads a unit the way the host reads guest memory, into `to`.
  Result<> read(std::uint64_t which, std::vector<std::byte>& to) const {
    to.assign(kUnit, std::byte{0});
    return guarded_copy(to, unit(which));
  }

 private:
  FaultServer& server_;
  Mapping map_;
  std::uint64_t id_ = 0;
  bool left_ = false;
};

// A read that no compiler leaves out.
inline int peek(const std::byte* at) {
  return static_cast<int>(*static_cast<const volatile std::byte*>(at));
}

inline void expect_unit(const Clone& clone, std::uint64_t unit) {
  std::vector<std::byte> got;
  const Result<> read = clone.read(unit, got);
  ASSERT_TRUE(read) << read.error().context;
  ASSERT_EQ(got, unit_bytes(unit)) << "unit " << unit;
}

inline void expect_lost(const Clone& clone, std::uint64_t unit) {
  std::vector<std::byte> got;
  const Result<> read = clone.read(unit, got);
  ASSERT_FALSE(read) << "unit " << unit;
  EXPECT_EQ(read.error().code, Code::kPageLost);
}

// Reads every word of `clone`, page by page, beginning at page `start` of it and going round, and
// returns how many are not what they should be.
inline std::uint64_t wrong_words(const Clone& clone, std::uint64_t start) {
  const std::uint64_t pages = clone.bytes().size() / kPage;
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < pages; ++i) {
    const std::uint64_t page = (start + i * 17) % pages;  // 17: every unit is met in its middle
    const auto* const words =
        reinterpret_cast<const volatile std::uint64_t*>(clone.bytes().data() + page * kPage);
    for (std::uint64_t w = 0; w < kPage / 8; ++w) {
      if (words[w] != word_at(page * kPage / 8 + w)) ++wrong;
    }
  }
  return wrong;
}

}  // namespace volt::uffd
