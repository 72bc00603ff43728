// The in-process pager: a thread that answers the faults of clones of one shared image.
//
// A fault names a page; the server asks the source for the whole unit, puts it into the image and
// wakes whoever waits. Every fault ends in a wake, filled or not: a waiting thread looks only at
// its own page table. A unit that cannot be had makes its range of each clone inaccessible before
// the wake, so the guest stops with an error (KVM_RUN says EFAULT) and never sees zeros.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "uffd/page_source.h"
#include "uffd/shared_image.h"
#include "uffd/userfaultfd.h"

namespace volt::uffd {

// A part of a clone's memory that shows a part of the image. Both multiples of the unit.
struct View {
  std::span<std::byte> host;
  std::uint64_t image_offset;
};

struct FaultCounts {
  std::uint64_t faults = 0;  // messages read
  std::uint64_t units_filled = 0;
  std::uint64_t units_failed = 0;
  std::uint64_t woken_only = 0;  // the unit was there already
};

// Pinned; its thread keeps its address.
class FaultServer final : private UnitSink {
 public:
  static Result<std::unique_ptr<FaultServer>> start(SharedImage image,
                                                    std::unique_ptr<PageSource> source);
  // Every clone must have been detached.
  ~FaultServer() override;

  int image_fd() const { return image_.fd(); }

  // Serves faults of `views`, which are mapped privately from the image and registered with `uffd`.
  // The caller stops the clone's CPUs and unmaps the views before it detaches: closing a
  // userfaultfd over a live mapping would let the next touch plant a zero page for everyone.
  Result<std::uint64_t> attach(Userfaultfd uffd, std::vector<View> views);
  void detach(std::uint64_t clone);

  // Why a page could not be had, if that ever happened.
  std::optional<Error> failure() const;
  FaultCounts counts() const;

 private:
  struct Clone {
    std::uint64_t id;
    Userfaultfd uffd;
    std::vector<View> views;
  };

  FaultServer(SharedImage image, std::unique_ptr<PageSource> source, Fd wake_up);
  void serve();
  void drain(Clone& clone);
  void on_fault(Clone& clone, std::uint64_t address);
  void wake_unit(std::uint64_t unit);
  void forbid_unit(std::uint64_t unit);
  void note_failure(Error why);
  void poke() const;

  void filled(std::uint64_t unit, std::span<const std::byte> bytes) override;
  void failed(std::uint64_t unit, Error why) override;

  SharedImage image_;
  std::unique_ptr<PageSource> source_;
  Fd wake_up_;  // eventfd: the thread looks at clones_ and stop_ anew
  std::atomic<bool> stop_ = false;

  // Guards what follows. Taken once per batch of messages by the serving thread; it is uncontended
  // (20 ns against a fault's 40 us) except while clones come and go or a source answers elsewhere.
  mutable std::recursive_mutex mutex_;
  std::vector<std::unique_ptr<Clone>> clones_;
  std::uint64_t next_id_ = 1;
  std::optional<Error> failure_;
  FaultCounts counts_;

  std::thread thread_;
};

}  // namespace volt::uffd
