#include "snapshot/memory_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "snapshot/store.h"
#include "vmm/interrupt.h"
#include "vmm/os/fault_guard.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr std::uint64_t kUnit = formats::kDefaultUnitBytes;
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPagesPerUnit = kUnit / kPage;
// Bits of a /proc/self/pagemap entry.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// Which units of a region may hold something: those with content behind them, and those in which
// this process has a page. The rest is anonymous memory nobody has touched, and must not be read:
// reading would fill the page tables of a mostly empty guest.
class TouchedUnits {
 public:
  static Result<TouchedUnits> of(const vmm::GuestMemory::Region& region) {
    TouchedUnits touched;
    touched.marks_.resize(region.host.size() / kUnit);
    const Fd pagemap = VOLT_TRY(open_at(AT_FDCWD, "/proc/self/pagemap", O_RDONLY));
    std::vector<std::uint64_t> pages(kPagesPerUnit * 512);
    const std::uint64_t first = reinterpret_cast<std::uintptr_t>(region.host.data()) / kPage;
    const std::uint64_t count = region.host.size() / kPage;
    for (std::uint64_t at = 0; at < count; at += pages.size()) {
      const auto part = std::span(pages).first(std::min<std::uint64_t>(pages.size(), count - at));
      VOLT_TRY(read_exact(pagemap, std::as_writable_bytes(part), (first + at) * sizeof(pages[0]),
                          "/proc/self/pagemap"));
      for (std::uint64_t i = 0; i < part.size(); ++i) {
        if ((part[i] & (kPresent | kSwapped)) != 0) touched.marks_[(at + i) / kPagesPerUnit] = true;
      }
    }
    for (const vmm::GuestMemory::Range& range : region.backed) {
      for (std::uint64_t unit = range.offset / kUnit; unit * kUnit < range.offset + range.bytes;
           ++unit) {
        touched.marks_[unit] = true;
      }
    }
    return touched;
  }

  bool operator[](std::uint64_t unit) const { return marks_[unit]; }
  std::uint64_t size() const { return marks_.size(); }

 private:
  std::vector<bool> marks_;
};

struct Gap {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// The zero runs of the memory file that a manifest leaves out: the longest few, in file order.
std::vector<Gap> longest_gaps(std::span<const formats::IndexEntry> entries, std::uint64_t total) {
  std::vector<Gap> gaps;
  std::uint64_t at = 0;
  const auto add = [&](std::uint64_t until) {
    if (until - at >= formats::kMinGapBytes) gaps.push_back({at, until - at});
  };
  for (const formats::IndexEntry& entry : entries) {
    add(entry.place);
    at = entry.place + kUnit;
  }
  add(total);
  std::ranges::sort(gaps, std::greater<>(), &Gap::bytes);
  if (gaps.size() > formats::kMaxGaps) gaps.resize(formats::kMaxGaps);
  std::ranges::sort(gaps, std::less<>(), &Gap::offset);
  return gaps;
}

// [from, to) of the memory file as extents, none of which crosses into another region.
void add_data(formats::v1::Memory& message, std::uint64_t from, std::uint64_t to) {
  for (const formats::v1::Region& region : message.regions()) {
    const std::uint64_t start = std::max(from, region.file_offset());
    const std::uint64_t end = std::min(to, region.file_offset() + region.size_bytes());
    if (start >= end) continue;
    formats::v1::Extent& extent = *message.add_data();
    extent.set_file_offset(start);
    extent.set_size_bytes(end - start);
  }
}

}  // namespace

Result<std::vector<formats::IndexEntry>> write_memory(const vmm::GuestMemory& memory,
                                                      const Fd& file) {
  std::vector<formats::IndexEntry> entries;
  std::vector<std::byte> unit(kUnit);
  std::uint64_t file_offset = 0;
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    const TouchedUnits touched = VOLT_TRY(TouchedUnits::of(region));
    for (std::uint64_t i = 0; i < touched.size(); ++i) {
      if (!touched[i]) continue;
      VOLT_TRY(vmm::check_stop());
      // Copied first: what is summed is what is written, and a page that cannot be had is an error.
      VOLT_TRY(guarded_copy(unit, region.host.bytes().subspan(i * kUnit, kUnit)));
      if (is_zero(unit)) continue;
      const std::uint64_t place = file_offset + i * kUnit;
      VOLT_TRY(write_all(file, unit, place, kMemoryFile));
      entries.push_back(
          {.unit = region.guest_base / kUnit + i, .sum = formats::xxh128(unit), .place = place});
    }
    file_offset += region.host.size();
  }
  if (::ftruncate(file.get(), static_cast<off_t>(file_offset)) != 0) {
    return sys_error("ftruncate", kMemoryFile);
  }
  return entries;
}

formats::v1::Memory describe_memory(const vmm::GuestMemory& memory,
                                    std::span<const formats::IndexEntry> entries) {
  formats::v1::Memory message;
  std::uint64_t file_offset = 0;
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    formats::v1::Region& to = *message.add_regions();
    to.set_guest_base(region.guest_base);
    to.set_size_bytes(region.host.size());
    to.set_file_offset(file_offset);
    file_offset += region.host.size();
  }
  message.set_unit_bytes(kUnit);
  message.set_stored_bytes(entries.size() * kUnit);
  const formats::Sha256 digest = formats::memory_digest(entries, kUnit);
  message.set_digest(digest.data(), digest.size());

  std::uint64_t at = 0;
  for (const Gap& gap : longest_gaps(entries, file_offset)) {
    add_data(message, at, gap.offset);
    at = gap.offset + gap.bytes;
  }
  add_data(message, at, file_offset);
  return message;
}

}  // namespace volt::snapshot
