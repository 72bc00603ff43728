// The memory image that clones share: a memfd that starts empty and is filled unit by unit. Its
// rules, each of which the kernel would otherwise break silently:
//   - Filled only by UFFDIO_COPY into the pager's own registered mapping: memcpy and pwrite show
//     half-filled or empty pages to clones that look meanwhile.
//   - Whether a unit is there is what the pager's own table says. A page that is there although the
//     table says no was planted by somebody's stray read: an integrity failure.
//   - Sealed once the pager has mapped it: nobody else can write, grow or cut it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "uffd/userfaultfd.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/os/mapping.h"

namespace volt::uffd {

class SharedImage {
 public:
  // `bytes` is a multiple of `unit_bytes`.
  static Result<SharedImage> create(std::uint64_t bytes, std::uint64_t unit_bytes);

  enum class UnitState : std::uint8_t { kAbsent, kRequested, kPresent, kFailed };

  int fd() const { return memfd_.get(); }
  std::uint64_t unit_bytes() const { return unit_bytes_; }
  std::uint64_t units() const { return map_.size() / unit_bytes_; }

  UnitState state(std::uint64_t unit) const {
    return states_[unit].load(std::memory_order_acquire);
  }
  void set_state(std::uint64_t unit, UnitState state) {
    states_[unit].store(state, std::memory_order_release);
  }

  // Puts a whole unit in place and marks it present. kCorrupt: `bytes` are not a whole unit, or
  // something was there already.
  Result<> fill(std::uint64_t unit, std::span<const std::byte> bytes);

 private:
  SharedImage(Fd memfd, Mapping map, Userfaultfd uffd, std::uint64_t unit_bytes);

  Fd memfd_;
  Userfaultfd uffd_;  // destroyed after map_: closing it over a live mapping would unregister it
  Mapping map_;
  std::uint64_t unit_bytes_;
  std::unique_ptr<std::atomic<UnitState>[]> states_;
};

}  // namespace volt::uffd
