// One clone as its pager knows it: where its memory shows the image, and how its faults end.
//
// Everything that touches the clone's addresses happens under its lock and not after forget(). The
// addresses are those of the clone's own process, which need not be ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "uffd/ready_loop.h"
#include "uffd/userfaultfd.h"
#include "vmm/os/error.h"

namespace volt::uffd {

// A part of a clone's memory that shows a part of the image. Both multiples of the unit.
struct View {
  std::span<std::byte> host;
  std::uint64_t image_offset;
};

// What is done to a range that cannot be had.
enum class LostPages {
  kPoison,  // UFFDIO_POISON (Linux 6.6): works on any process's memory. KVM sends SIGBUS
  kForbid,  // PROT_NONE: only on memory of this process. KVM_RUN says EFAULT
};

struct CloneOptions {
  enum class Home { kThisProcess, kAnotherProcess };
  Home home = Home::kThisProcess;
  // For memory of another process where the kernel cannot poison: called without any lock, on any
  // thread. Whoever owns the memory makes the unit's range inaccessible, then wakes it.
  std::function<void(std::uint64_t unit)> on_lost = {};
};

class ServedClone final {
 public:
  // `loop` tells whoever owns this of its messages, and outlives it.
  ServedClone(Userfaultfd uffd, std::vector<View> views, CloneOptions options,
              std::uint64_t unit_bytes, LostPages lost_pages, ReadyLoop& loop);

  // A page of the clone that a thread waits for.
  struct Place {
    std::uint64_t unit;
    std::span<std::byte> range;  // the whole unit
    std::byte* page;
  };
  std::optional<Place> place_of(std::uint64_t address) const;
  std::optional<Place> place_of_unit(std::uint64_t unit) const;

  // The loop says `key` from now on.
  Result<> watch(std::uint64_t key);
  // Waiting messages; none once it is forgotten.
  Result<std::size_t> read(std::span<uffd_msg> messages);

  enum class Answer {
    kDone,  // for good, or for ever impossible: the clone is gone, or not as it was registered
    kBusy,  // its memory is changing: read its messages, then try again
  };
  // The unit is in the image: whoever waits for the place goes on.
  Answer show(const Place& place);

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
  void forget_locked();
  Closed close_range(std::span<std::byte> range);
  Closed poison(std::span<std::byte> range);
  void wake(std::span<std::byte> range);
  void note(Error why, Need need);

  const std::vector<View> views_;
  const CloneOptions options_;
  const std::uint64_t unit_bytes_;
  const LostPages lost_pages_;
  ReadyLoop& loop_;

  mutable std::mutex mutex_;
  Userfaultfd uffd_;
  bool forgotten_ = false;
  std::vector<LostUnit> lost_units_;
  std::optional<Error> failure_;
  Need failure_need_ = Need::kNo;
};

}  // namespace volt::uffd
