// The pager: threads that answer the faults of clones of one shared image.
//
// A fault names a page; the server asks the source for the whole unit, puts it into the image and
// wakes whoever waits. Every fault ends in a wake, filled or not: a waiting thread looks only at
// its own page table. A unit that cannot be had makes its range of each clone inaccessible before
// the wake, so the guest stops with an error and never sees zeros.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "uffd/fault_times.h"
#include "uffd/page_source.h"
#include "uffd/ready_loop.h"
#include "uffd/served_clone.h"
#include "uffd/shared_image.h"

namespace volt::uffd {

struct FaultOptions {
  std::size_t threads = 1;
  // A unit that a guest waits for longer than this is lost; 0: it may take for ever.
  std::uint64_t deadline_ms = 10'000;
  // Absent: poison where the kernel can, else forbid.
  std::optional<LostPages> lost_pages = std::nullopt;
  // Set: how long each fault took, from the read of its message to the end of its wake. Several
  // servers may share it. Absent: no clock is read for it.
  std::shared_ptr<FaultTimes> times = {};
  // Told of each unit that prefetch() brought into the image, whoever waited for it goes first;
  // without any lock, on any thread, until the server is gone.
  std::function<void(std::uint64_t unit)> on_ahead = {};
};

struct FaultCounts {
  std::uint64_t faults = 0;  // messages read
  std::uint64_t units_filled = 0;
  std::uint64_t units_failed = 0;
  std::uint64_t woken_only = 0;  // faults whose unit was there already
  std::uint64_t prefetched = 0;  // units asked for before anybody needed them
  // Of those, units that a fault asked for later. A clone that maps the image without MINOR finds
  // what is there without a fault, and is not seen.
  std::uint64_t prefetch_hits = 0;
  std::uint64_t overtakes = 0;  // units asked for again, because a guest waits now
};

// Pinned; its threads keep its address.
class FaultServer final : private UnitSink {
 public:
  static Result<std::unique_ptr<FaultServer>> start(SharedImage image,
                                                    std::unique_ptr<PageSource> source,
                                                    const FaultOptions& options = {});
  // Every clone must have been detached.
  ~FaultServer() override;

  int image_fd() const { return image_.fd(); }
  // Of a unit that is in the image.
  std::span<const std::byte> unit(std::uint64_t unit) const { return image_.unit(unit); }

  // Serves faults of `views`, which are mapped and registered with `uffd` as the kind of the clone
  // says. The userfaultfd may come from another process, or from a pager that is no more.
  Result<std::uint64_t> attach(Userfaultfd uffd, std::vector<View> views,
                               CloneOptions options = {});
  // A clone goes in this order: its CPUs stop; forget(), and from then on nothing touches its
  // addresses; its owner unmaps them; detach(), which closes the userfaultfd. Closing it over a
  // live mapping would let the next touch plant a zero page for everyone.
  void forget(std::uint64_t clone);
  void detach(std::uint64_t clone);

  // Asks for units before anybody needs them; a fault overtakes. On any thread, which a source that
  // answers before it returns keeps until it has.
  Result<> prefetch(std::span<const UnitRange> units);

  // Calls `answer` on one of the threads once each of them has been through its loop: never, if one
  // is stuck. On any thread.
  void echo(std::function<void()> answer);
  // How long the oldest that is not answered yet has waited; 0: there is none.
  std::uint64_t echo_waits_ms() const;

  // What a clone of kind kRecording touched first since the last time, in order.
  Recording take_recording(std::uint64_t clone);

  // Why a page could not be had, if that ever happened: the first such page, or the first that this
  // clone needed.
  std::optional<Error> failure() const;
  std::optional<Error> failure(std::uint64_t clone) const;
  FaultCounts counts() const;
  std::size_t clones() const {  // attached
    const std::lock_guard lock(mutex_);
    return clones_.size();
  }

 private:
  using Clone = std::shared_ptr<ServedClone>;
  // Somebody waits for a unit in this clone.
  struct Waiter {
    Clone clone;
    ServedClone::Place place;
    std::uint64_t read_ns;  // when its message was read; 0 where nobody times it
  };
  struct Wait {
    std::uint64_t since_ms;
    std::vector<Waiter> waiters;  // none: those who waited are gone, and the answer is to come
  };
  enum class UnitState : std::uint8_t {
    kAbsent,
    kPrefetching,  // asked for, nobody waits
    kWanted,       // asked for, somebody waits
    kFilling,      // answered, on its way into the image
    kPresent,
    kPrefetched,  // present, and nobody is known to have needed it
    kFailed,
  };
  enum class Next { kAnswer, kWait, kAsk };
  // Where a unit that is lost may be seen.
  enum class Trace {
    kNone,     // nothing of it is in the image
    kInImage,  // a part of it is, so a clone could read it without a fault
  };

  FaultServer(SharedImage image, std::unique_ptr<PageSource> source, const FaultOptions& options);
  Result<> check(const std::vector<View>& views, const CloneOptions& options) const;
  Clone find(std::uint64_t clone) const;  // null if it is not attached

  void on_ready(std::uint64_t clone, ReadyLoop::Ready ready);
  int before_sleep(std::size_t thread);
  void pass_echoes(std::size_t thread);
  bool retry_deferred();
  void on_fault(const Clone& clone, std::uint64_t address, std::uint64_t read_ns);
  Next next_for(std::uint64_t unit);
  void wait_for(Waiter waiter);
  std::vector<Waiter> take_waiters(std::uint64_t unit);
  void answer(const Waiter& waiter, const std::optional<Error>& lost);
  ServedClone::Answer try_answer(const Waiter& waiter, const std::optional<Error>& lost) const;
  void expire();

  void filled(std::uint64_t unit, std::span<const std::byte> bytes) override;
  void failed(std::uint64_t unit, Error why) override;
  void lose(std::uint64_t unit, Error why, Trace trace);

  SharedImage image_;
  std::unique_ptr<PageSource> source_;
  const FaultOptions options_;
  const LostPages lost_pages_;
  std::atomic<std::size_t> waits_ = 0;   // size of waiting_
  std::atomic<std::size_t> echoes_ = 0;  // that are not answered yet

  // Guards what follows; a leaf: nothing is called with it held. A fault takes it three times, and
  // allocates twice: 0.2 us of 40.
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Clone> clones_;
  std::uint64_t next_id_ = 1;
  std::vector<UnitState> states_;
  std::unordered_map<std::uint64_t, Wait> waiting_;  // by unit
  std::unordered_map<std::uint64_t, Error> lost_;    // by unit
  std::vector<std::uint64_t> tainted_;               // lost units of Trace::kInImage
  struct Deferred {
    Waiter waiter;
    std::optional<Error> lost;
  };
  std::vector<Deferred> deferred_;  // answers that found their clone busy
  struct Echo {
    std::function<void()> answer;
    std::uint64_t since_ms;
    std::atomic<std::size_t> threads_left;
  };
  std::vector<std::vector<std::shared_ptr<Echo>>>
      echoes_of_;  // by thread that has to pass them, oldest first
  std::optional<Error> failure_;
  FaultCounts counts_;

  std::vector<std::unique_ptr<ReadyLoop>> loops_;  // destroyed first
};

}  // namespace volt::uffd
