// Which pages of a range this process has to itself: what a clone may have written. Nothing is
// tracked while a guest runs; the kernel's page tables know.
//
// Behind::kFile, a private mapping of a file or a memfd. Reported is each page that was copied for
// this process, in memory or swapped out: written pages, those written back to zero, and those
// populated for writing and never written. So they are candidates: compare before you believe. A
// page that was only read is the file's, whoever else has it, and is not reported.
//
// Behind::kNothing, anonymous memory. Reported is each page that is there or swapped out. A page
// that was only read shows the kernel's page of zeros, and is reported too: without privilege the
// two kinds cannot be told apart by reading the pagemap. The huge page of zeros is why the caller
// has to say what is behind: reading the pagemap calls it a file's, PAGEMAP_SCAN does not.
//
// Under both, a page that a pager poisoned is reported as swapped; reading it is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/guest_memory.h"
#include "vmm/os/error.h"

namespace volt::snapshot {

inline constexpr std::uint64_t kPageBytes = 4096;

// Pages of a range, counted from its start.
struct PageRange {
  std::uint64_t first;
  std::uint64_t count;
  bool operator==(const PageRange&) const = default;
};

enum class Behind { kFile, kNothing };

// Both give the same pages.
enum class PageFinder {
  kAuto,  // kScan where the kernel has it
  kScan,  // ioctl PAGEMAP_SCAN, Linux 6.7: skips what is not mapped
  kRead,  // reads an entry of /proc/self/pagemap for each page, mapped or not
};

// Whether this kernel has PAGEMAP_SCAN; asked once.
bool page_scan_usable();

// Ascending, with a gap between neighbours. `range` is page-aligned and wholly mapped; memory is
// allocated for the answer, not for the range. Touches none of the pages. Pages that come or go
// meanwhile may be in it or not.
Result<std::vector<PageRange>> private_pages(std::span<const std::byte> range, Behind behind,
                                             PageFinder finder = PageFinder::kAuto);

// The same of a whole region of guest memory, which knows what is behind each part of it.
Result<std::vector<PageRange>> own_pages(const vmm::GuestMemory::Region& region,
                                         PageFinder finder = PageFinder::kAuto);

}  // namespace volt::snapshot
