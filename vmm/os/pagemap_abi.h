// /proc/self/pagemap: what an entry of it says of a page, and its ioctl PAGEMAP_SCAN (Linux 6.7),
// which Debian 12's headers (6.1) lack. The names are ours, so newer headers do not collide.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace volt::pagemap {

inline constexpr char kPath[] = "/proc/self/pagemap";

// Bits of an entry; entries are 64 bits, one for each 4 KiB of address space.
inline constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kFileOrShared = std::uint64_t{1} << 61;

// Categories of a page as PAGEMAP_SCAN sees it.
inline constexpr std::uint64_t kIsFile = 1 << 2;  // page cache; shared memory too
inline constexpr std::uint64_t kIsPresent = 1 << 3;
inline constexpr std::uint64_t kIsSwapped = 1 << 4;

// struct page_region.
struct ScanRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;  // those of return_mask
};

// struct pm_scan_arg. A page matches if, once the categories of `inverted` are turned round, it has
// all of `all_of`, and one of `any_of` unless that is empty.
struct ScanArgument {
  std::uint64_t size;  // of this
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;  // answered: where the walk stopped
  std::uint64_t regions;   // address of the answer
  std::uint64_t max_regions;
  std::uint64_t max_pages;  // 0: any
  std::uint64_t inverted;
  std::uint64_t all_of;
  std::uint64_t any_of;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanRegion) == 24 && sizeof(ScanArgument) == 96);

inline constexpr unsigned long kScan = _IOWR('f', 16, ScanArgument);

}  // namespace volt::pagemap
