// A page source that answers when its test says so.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {

// Answers what the test tells it to, and remembers how it was asked.
class HandSource final : public PageSource {
 public:
  struct Ask {
    UnitRange units;
    Priority priority;
    bool operator==(const Ask& other) const {
      return units.first == other.units.first && units.count == other.units.count &&
             priority == other.priority;
    }
  };
  struct Book {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Ask> asks;
    UnitSink* sink = nullptr;

    void await(std::size_t count) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return asks.size() >= count; });
    }
    std::vector<Ask> all() {
      const std::lock_guard lock(mutex);
      return asks;
    }
    void fill(std::uint64_t unit) { asker().filled(unit, unit_bytes(unit)); }
    void fail(std::uint64_t unit, std::string why) {
      asker().failed(unit, {Code::kSystem, EIO, std::move(why)});
    }
    UnitSink& asker() {
      const std::lock_guard lock(mutex);
      return *sink;
    }
  };

  explicit HandSource(std::shared_ptr<Book> book) : book_(std::move(book)) {}
  void request(std::span<const UnitRange> units, Priority priority, UnitSink& done) override {
    const std::lock_guard lock(book_->mutex);
    book_->sink = &done;
    for (const UnitRange& range : units) book_->asks.push_back({range, priority});
    book_->changed.notify_all();
  }

 private:
  std::shared_ptr<Book> book_;
};

struct Hand {
  explicit Hand(const FaultOptions& options = {})
      : server(serve(std::make_unique<HandSource>(book), options)) {}
  std::shared_ptr<HandSource::Book> book = std::make_shared<HandSource::Book>();
  std::unique_ptr<FaultServer> server;
};

using Ask = HandSource::Ask;

inline Ask demand(std::uint64_t unit) {
  return {{unit, 1}, Priority::kDemand};
}

}  // namespace volt::uffd
