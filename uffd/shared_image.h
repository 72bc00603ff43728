// The memory image that clones share: a memfd that starts empty and is filled unit by unit. Its
// rules, each of which the kernel would otherwise break silently:
//   - Filled only by UFFDIO_COPY into the pager's own registered mapping: memcpy and pwrite show
//     half-filled or empty pages to clones that look meanwhile.
//   - Whether a unit is there is what its pager remembers. A page that is there although the pager
//     never put it there was planted by somebody's stray read: an integrity failure.
//   - Sealed once the pager has mapped it: nobody else can write, grow or cut it.
#pragma once

#include <cstddef>
#include <cstdint>
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

  int fd() const { return memfd_.get(); }
  std::uint64_t unit_bytes() const { return unit_bytes_; }
  std::uint64_t units() const { return map_.size() / unit_bytes_; }

  // What this kernel's userfaultfd can do: UFFD_FEATURE_*.
  std::uint64_t offered() const { return uffd_.offered(); }

  // Puts a whole unit in place; each unit by one thread, once. kCorrupt: `bytes` are not a whole
  // unit, or something was there already. After a failure a part of it may be there.
  Result<> fill(std::uint64_t unit, std::span<const std::byte> bytes);
  // A unit that was filled.
  std::span<const std::byte> unit(std::uint64_t unit) const {
    return map_.bytes().subspan(unit * unit_bytes_, unit_bytes_);
  }

 private:
  SharedImage(Fd memfd, Mapping map, Userfaultfd uffd, std::uint64_t unit_bytes);

  Fd memfd_;
  Userfaultfd uffd_;  // destroyed after map_: closing it over a live mapping would unregister it
  Mapping map_;
  std::uint64_t unit_bytes_;
};

}  // namespace volt::uffd
