#include "snapshot/private_pages.h"

#include <fcntl.h>

#include <algorithm>
#include <array>

#include "vmm/os/file.h"
#include "vmm/os/pagemap_abi.h"

namespace volt::snapshot {
namespace {

std::uint64_t address_of(std::span<const std::byte> range) {
  return reinterpret_cast<std::uintptr_t>(range.data());
}

// Both ways may find a run of pages in pieces.
void add(std::vector<PageRange>& found, std::uint64_t first, std::uint64_t count) {
  if (!found.empty() && found.back().first + found.back().count == first) {
    found.back().count += count;
  } else {
    found.push_back({first, count});
  }
}

Result<std::vector<PageRange>> by_scan(const Fd& pagemap, std::span<const std::byte> range,
                                       Behind behind) {
  std::array<pagemap::ScanRegion, 512> regions;
  const std::uint64_t start = address_of(range);
  const std::uint64_t not_file = behind == Behind::kFile ? pagemap::kIsFile : 0;
  pagemap::ScanArgument scan = {.size = sizeof scan,
                                .flags = 0,
                                .start = start,
                                .end = start + range.size(),
                                .walk_end = 0,
                                .regions = reinterpret_cast<std::uintptr_t>(regions.data()),
                                .max_regions = regions.size(),
                                .max_pages = 0,
                                .inverted = not_file,
                                .all_of = not_file,
                                .any_of = pagemap::kIsPresent | pagemap::kIsSwapped,
                                .return_mask = 0};
  std::vector<PageRange> found;
  while (scan.start < scan.end) {
    const int count = ::ioctl(pagemap.get(), pagemap::kScan, &scan);
    if (count < 0) return sys_error("PAGEMAP_SCAN");
    for (const pagemap::ScanRegion& region :
         std::span(regions).first(static_cast<std::size_t>(count))) {
      add(found, (region.start - start) / kPageBytes, (region.end - region.start) / kPageBytes);
    }
    if (scan.walk_end <= scan.start) return fail(Code::kSystem, "PAGEMAP_SCAN: it stays in place");
    scan.start = scan.walk_end;
  }
  return found;
}

Result<std::vector<PageRange>> by_reading(const Fd& pagemap, std::span<const std::byte> range,
                                          Behind behind) {
  std::vector<std::uint64_t> entries(8192);
  const std::uint64_t ignored_if = behind == Behind::kFile ? pagemap::kFileOrShared : 0;
  const std::uint64_t first = address_of(range) / kPageBytes;
  const std::uint64_t count = range.size() / kPageBytes;
  std::vector<PageRange> found;
  for (std::uint64_t at = 0; at < count; at += entries.size()) {
    const auto part = std::span(entries).first(std::min<std::uint64_t>(entries.size(), count - at));
    VOLT_TRY(read_exact(pagemap, std::as_writable_bytes(part), (first + at) * sizeof(entries[0]),
                        pagemap::kPath));
    for (std::uint64_t i = 0; i < part.size(); ++i) {
      const bool there = (part[i] & (pagemap::kPresent | pagemap::kSwapped)) != 0;
      if (there && (part[i] & ignored_if) == 0) add(found, at + i, 1);
    }
  }
  return found;
}

// A scan of one page of our own; where it fails for whatever reason, reading does as well.
bool probe_scan() {
  alignas(kPageBytes) static constexpr std::array<std::byte, kPageBytes> kPage = {};
  const Result<Fd> pagemap = open_at(AT_FDCWD, pagemap::kPath, O_RDONLY);
  return pagemap && by_scan(*pagemap, kPage, Behind::kFile);
}

}  // namespace

bool page_scan_usable() {
  static const bool kUsable = probe_scan();
  return kUsable;
}

Result<std::vector<PageRange>> private_pages(std::span<const std::byte> range, Behind behind,
                                             PageFinder finder) {
  if (address_of(range) % kPageBytes != 0 || range.size() % kPageBytes != 0) {
    return fail(Code::kInvalid, "private pages: the range is not page-aligned");
  }
  const Fd pagemap = VOLT_TRY(open_at(AT_FDCWD, pagemap::kPath, O_RDONLY));
  const bool scan = finder == PageFinder::kAuto ? page_scan_usable() : finder == PageFinder::kScan;
  return scan ? by_scan(pagemap, range, behind) : by_reading(pagemap, range, behind);
}

Result<std::vector<PageRange>> own_pages(const vmm::GuestMemory::Region& region,
                                         PageFinder finder) {
  std::vector<PageRange> own;
  const auto add = [&](std::uint64_t from, std::uint64_t until, Behind behind) -> Result<> {
    const auto part = region.host.bytes().subspan(from, until - from);
    for (const PageRange& pages : VOLT_TRY(private_pages(part, behind, finder))) {
      own.push_back({from / kPageBytes + pages.first, pages.count});
    }
    return {};
  };
  std::uint64_t at = 0;
  for (const vmm::GuestMemory::Range& range : region.backed) {
    VOLT_TRY(add(at, range.offset, Behind::kNothing));
    VOLT_TRY(add(range.offset, range.offset + range.bytes, Behind::kFile));
    at = range.offset + range.bytes;
  }
  VOLT_TRY(add(at, region.host.size(), Behind::kNothing));
  return own;
}

}  // namespace volt::snapshot
