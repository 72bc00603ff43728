// One clone as its pager knows it: where its memory shows the image, and how its faults end.
//
// Everything that touches the clone's addresses happens under its lock and not after forget(). The
// addresses are those of the clone's own process, which need not be ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "uffd/clone_options.h"
#include "uffd/page_marks.h"
#include "uffd/ready_loop.h"
#include "uffd/userfaultfd.h"
#include "vmm/os/error.h"

namespace volt::uffd {

class ServedClone final {
 public:
  struct Setup {
    std::uint64_t image_bytes;
    std::uint64_t unit_bytes;
    LostPages lost_pages;
    ReadyLoop& loop;  // tells whoever owns the clone of its messages, and outlives it
  };
  ServedClone(Userfaultfd uffd, std::vector<View> views, CloneOptions options, const Setup& setup);

  // A page of the clone that a thread waits for.
  struct Place {
    std::uint64_t unit;
    std::span<std::byte> range;   // the whole unit
    std::byte* page;              // in the clone
    std::uint64_t page_in_image;  // counted in pages
  };
  std::optional<Place> place_of(std::uint64_t address) const;
  std::optional<Place> place_of_unit(std::uint64_t unit) const;

  // The loop says `key` from now on. Whoever waits already looks again: what another pager has read
  // and never answered is not delivered a second time.
  Result<> watch(std::uint64_t key);
  // Waiting messages; none once it is forgotten. Removals among them have been applied, so that
  // nothing which is answered later, on any thread, brings a removed page back.
  Result<std::size_t> read(std::span<uffd_msg> messages);
  // Whether the clone has thrown the page away: it is zero then, whatever the image says.
  bool removed(const Place& place) const;

  enum class Answer {
    kDone,  // for good, or for ever impossible: the clone is gone, or not as it was registered
    kBusy,  // its memory is changing: read its messages, then try again
  };
  // The unit is in the image, and `bytes` are its content: whoever waits for the place goes on.
  Answer show(const Place& place, std::span<const std::byte> bytes);

  enum class Need {
    kYes,
    kNo,  // nobody waits, but a part of it might be read without a fault
  };
  // The unit cannot be had: whoever touches its range stops.
  Answer lose(const Place& place, const Error& why, Need need);
  // The same for a page that belongs to no unit.
  void lose_stray(std::uint64_t address);
  // Why a page of this clone could not be had, if that ever happened.
  std::optional<Error> failure() const;
  // What was written down since the last time.
  Recording take_recording();

  // From here on nothing touches its addresses.
  void forget();
  // Forgets, and closes its userfaultfd.
  void close();

 private:
  enum class Closed { kPoisoned, kForbidden, kByOwner, kNotYet };
  struct LostUnit {
    std::uint64_t unit;
    Closed how;
  };
  enum class Covered {
    kAtOnce,   // in one call
    kWholly,   // all of it is there now, or is no memory any more
    kBusy,     // not all
    kRefused,  // not all, and it is noted why
  };
  template <typename Step>
  Covered cover(std::span<std::byte> range, Step step);
  template <typename Step>
  Covered cover_kept(const Place& place, Step step);
  Covered show_locked(const Place& place, std::span<const std::byte> bytes);
  Covered copy(const Place& place, std::span<const std::byte> bytes);

  Closed close_range(const Place& place);
  Closed poison(const Place& place);
  void wake(std::span<std::byte> range);
  void note(Error why, Need need);
  void remove(std::uint64_t start, std::uint64_t end);
  void record(std::uint64_t address, std::uint64_t flags);
  void forget_locked();

  const std::vector<View> views_;
  const CloneOptions options_;
  const Setup setup_;

  mutable std::mutex mutex_;
  Userfaultfd uffd_;
  bool forgotten_ = false;
  PageMarks removed_;
  PageMarks recorded_;
  Recording recording_;
  std::vector<LostUnit> lost_units_;
  std::optional<Error> failure_;
  Need failure_need_ = Need::kNo;
};

}  // namespace volt::uffd
