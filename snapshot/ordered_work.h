// Work on numbered items by several threads, its results taken in order by one: how units are
// packed, unpacked and checked.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "vmm/interrupt.h"
#include "vmm/os/error.h"

namespace volt::snapshot {

// As many as there are processors to run on.
unsigned default_threads();

// Calls work(slot, tools, i) for each i below `count`, on `threads` threads, the calling one among
// them, each with tools of its own (contexts that should stay in its cache) and with a slot that is
// its own until commit(slot, i) has been called for it: on the calling thread, in ascending order
// of i. The first error, or an interrupt, ends it. With one thread nothing is handed over at all.
template <typename Slot, typename Tools>
class OrderedWork {
 public:
  using Work = std::function<Result<>(Slot&, Tools&, std::uint64_t)>;
  using Commit = std::function<Result<>(Slot&, std::uint64_t)>;

  // Every thread has more slots than one, so that a slow item does not stop the others.
  static constexpr unsigned kSlotsPerThread = 4;

  OrderedWork(unsigned threads, const std::function<Slot()>& make_slot,
              const std::function<Tools()>& make_tools)
      : threads_(threads) {
    tools_.reserve(threads);
    for (unsigned i = 0; i < threads; ++i) tools_.emplace_back(make_tools());
    const unsigned slots = threads == 1 ? 1 : threads * kSlotsPerThread;
    slots_.reserve(slots);
    for (unsigned i = 0; i < slots; ++i) slots_.emplace_back(make_slot());
  }

  Result<> run(std::uint64_t count, const Work& work, const Commit& commit) {
    if (threads_ == 1) return run_alone(count, work, commit);
    count_ = count;
    const std::size_t helpers =
        static_cast<std::size_t>(std::min<std::uint64_t>(threads_ - 1, count));
    {
      std::vector<std::jthread> threads;
      for (std::size_t t = 0; t < helpers; ++t) {
        threads.emplace_back([this, &work, t] { help(work, tools_[t]); });
      };
      Result<> done = take_all(work, commit, tools_.back());
      if (!done) give_up(std::move(done).error());
    }
    if (error_) return std::unexpected(*std::move(error_));
    return {};
  }

 private:
  struct Place {
    explicit Place(Slot made) : slot(std::move(made)) {}
    Slot slot;
    bool ready = false;  // worked on, not yet committed
  };

  Result<> run_alone(std::uint64_t count, const Work& work, const Commit& commit) {
    for (std::uint64_t i = 0; i < count; ++i) {
      VOLT_TRY(vmm::check_stop());
      VOLT_TRY(work(slots_[0].slot, tools_[0], i));
      VOLT_TRY(commit(slots_[0].slot, i));
    }
    return {};
  }

  Place& place_of(std::uint64_t i) { return slots_[i % slots_.size()]; }

  // With mutex_ held, as all that follows.
  bool is_over() const { return error_ || taken_ == count_; }
  bool has_item() const { return next_ < count_ && next_ < taken_ + slots_.size(); }

  Result<> work_on_next(std::unique_lock<std::mutex>& lock, const Work& work, Tools& tools) {
    const std::uint64_t i = next_++;
    lock.unlock();
    VOLT_TRY(work(place_of(i).slot, tools, i));
    lock.lock();
    place_of(i).ready = true;
    if (i == taken_) done_.notify_one();
    return {};
  }

  void help(const Work& work, Tools& tools) {
    std::unique_lock lock(mutex_);
    for (;;) {
      room_.wait(lock, [this] { return error_ || next_ == count_ || has_item(); });
      if (error_ || next_ == count_) return;
      Result<> done = work_on_next(lock, work, tools);
      if (!done) return give_up(std::move(done).error());
    }
  }

  // What is ready goes first, so that there is room for the others.
  Result<> take_all(const Work& work, const Commit& commit, Tools& tools) {
    std::unique_lock lock(mutex_);
    for (;;) {
      VOLT_TRY(vmm::check_stop());
      done_.wait(lock, [this] { return is_over() || place_of(taken_).ready || has_item(); });
      if (is_over()) return {};
      if (!place_of(taken_).ready) {
        VOLT_TRY(work_on_next(lock, work, tools));
        continue;
      }
      lock.unlock();
      VOLT_TRY(commit(place_of(taken_).slot, taken_));
      lock.lock();
      place_of(taken_).ready = false;
      ++taken_;
      room_.notify_one();
    }
  }

  void give_up(Error why) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(why);
    room_.notify_all();
    done_.notify_all();
  }

  const unsigned threads_;
  std::vector<Place> slots_;
  std::vector<Tools> tools_;  // one for each thread
  std::uint64_t count_ = 0;

  std::mutex mutex_;
  std::condition_variable room_;  // for helpers: a slot is free, or it is over
  std::condition_variable done_;  // for the caller: the next item is ready, or it is over
  std::uint64_t next_ = 0;        // item that nobody works on yet
  std::uint64_t taken_ = 0;       // items committed
  std::optional<Error> error_;
};

}  // namespace volt::snapshot
