#include "snapshot/memory_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "snapshot/private_pages.h"
#include "snapshot/store.h"
#include "vmm/interrupt.h"
#include "vmm/os/fault_guard.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr std::uint64_t kUnit = formats::kDefaultUnitBytes;

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// Units of a region, counted from its start.
struct UnitRun {
  std::uint64_t first;
  std::uint64_t end;
};

// Which units of a region may hold something: those with content behind them, and those in which
// this process has a page. The rest is anonymous memory nobody has touched, and must not be read:
// reading would fill the page tables of a mostly empty guest.
Result<std::vector<UnitRun>> touched_units(const vmm::GuestMemory::Region& region) {
  std::vector<UnitRun> runs;
  const auto add = [&runs](std::uint64_t offset, std::uint64_t bytes) {
    const UnitRun run = {offset / kUnit, (offset + bytes + kUnit - 1) / kUnit};
    if (!runs.empty() && run.first <= runs.back().end) {
      runs.back().end = std::max(runs.back().end, run.end);
    } else {
      runs.push_back(run);
    }
  };
  std::uint64_t at = 0;
  const auto add_touched = [&](std::uint64_t until) -> Result<> {
    const auto part = region.host.bytes().subspan(at, until - at);
    for (const PageRange& pages : VOLT_TRY(private_pages(part, Behind::kNothing))) {
      add(at + pages.first * kPageBytes, pages.count * kPageBytes);
    }
    return {};
  };
  for (const vmm::GuestMemory::Range& range : region.backed) {
    VOLT_TRY(add_touched(range.offset));
    add(range.offset, range.bytes);
    at = range.offset + range.bytes;
  }
  VOLT_TRY(add_touched(region.host.size()));
  return runs;
}

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
    for (const UnitRun& run : VOLT_TRY(touched_units(region))) {
      for (std::uint64_t i = run.first; i < run.end; ++i) {
        VOLT_TRY(vmm::check_stop());
        // Copied first: what is summed is what is written, and a page that cannot be had is an
        // error.
        VOLT_TRY(guarded_copy(unit, region.host.bytes().subspan(i * kUnit, kUnit)));
        if (is_zero(unit)) continue;
        const std::uint64_t place = file_offset + i * kUnit;
        VOLT_TRY(write_all(file, unit, place, kMemoryFile));
        entries.push_back(
            {.unit = region.guest_base / kUnit + i, .sum = formats::xxh128(unit), .place = place});
      }
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
