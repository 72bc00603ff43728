// Guest RAM as the host sees it: a list of regions, and the one checked way from a guest-physical
// address to host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/mapping.h"

namespace volt::vmm {

struct RegionLayout {
  std::uint64_t guest_base;
  std::uint64_t bytes;
  bool operator==(const RegionLayout&) const = default;
};

// The regions of a guest with `ram_bytes` of memory: what does not fit below the hole is above 4
// GiB. Refuses sizes that no guest of ours can use, before anything is allocated.
Result<std::vector<RegionLayout>> ram_layout(std::uint64_t ram_bytes);

class GuestMemory {
 public:
  struct Range {
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  struct Region {
    std::uint64_t guest_base;
    Mapping host;
    // Parts of it that show content nobody has touched yet, ascending. A page elsewhere that is not
    // present is zero.
    std::vector<Range> backed;
  };

  // Zeroed memory of this process alone: what a guest boots in.
  static Result<GuestMemory> anonymous(std::span<const RegionLayout> layout);
  // Address space for a region: anonymous memory, for which no swap is set aside. A loader maps
  // over it, then settles it. At a multiple of 2 MiB, as regions are in the guest: the pages that
  // the kernel maps around one that is touched are then the guest's own neighbours, the same ones
  // in every clone (a hot set knows what was touched by 64 KiB).
  static Result<Mapping> reserve(std::uint64_t bytes);
  // Not for fork(2)'s children (one that exits would drop pages of a lazily filled image), and no
  // huge pages (one written byte would cost 2 MiB of private memory).
  static Result<> settle(std::span<std::byte> region);

  // Regions ascend by guest_base and do not overlap.
  explicit GuestMemory(std::vector<Region> regions) : regions_(std::move(regions)) {}

  const std::vector<Region>& regions() const { return regions_; }
  std::uint64_t total_bytes() const;

  // The host's view of [address, address + bytes), kInvalid if that is not wholly inside one
  // region. Pages may be missing behind it: touch it through guarded() only.
  Result<std::span<std::byte>> at(std::uint64_t address, std::uint64_t bytes) const;
  // Copies between host and guest; kPageLost if a page cannot be had.
  Result<> read(std::uint64_t address, std::span<std::byte> into) const;
  Result<> write(std::uint64_t address, std::span<const std::byte> from) const;
  // From here on these pages are zeros until somebody writes them: what they showed, a snapshot's
  // content above all, does not come back. The guest may run meanwhile. They take no memory either,
  // or the answer is false: what shows a file is cut up by holes, and a process has only so many
  // mappings.
  Result<bool> discard(std::uint64_t address, std::uint64_t bytes) const;

 private:
  // Of what was given back, so that holes side by side are one: begin -> end.
  struct Holes {
    std::mutex mutex;
    std::map<std::uint64_t, std::uint64_t> ranges;
  };
  // False: there is no room for one more.
  bool remember_hole(std::uint64_t begin, std::uint64_t end) const;
  Result<> clear(std::span<std::byte> pages) const;

  std::vector<Region> regions_;
  std::unique_ptr<Holes> holes_ = std::make_unique<Holes>();
};

}  // namespace volt::vmm
