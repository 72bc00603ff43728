#include "snapshot/memory_writer.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "snapshot/private_pages.h"
#include "snapshot/store.h"
#include "vmm/interrupt.h"
#include "vmm/os/fault_guard.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// A unit belongs to one region.
Result<> check_units(const vmm::GuestMemory& memory, std::uint64_t unit_bytes) {
  VOLT_TRY(check_unit_bytes(unit_bytes));
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    if (region.guest_base % unit_bytes != 0 || region.host.size() % unit_bytes != 0) {
      return fail(Code::kInvalid, "unit size " + std::to_string(unit_bytes) +
                                      ": a region of the guest's memory is not whole units");
    }
  }
  return {};
}

struct Gap {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// The zero runs of the memory file that a manifest leaves out: the longest few, in file order.
std::vector<Gap> longest_gaps(std::span<const formats::IndexEntry> entries,
                              std::uint64_t unit_bytes, std::uint64_t total) {
  std::vector<Gap> gaps;
  std::uint64_t at = 0;
  const auto add = [&](std::uint64_t until) {
    if (until - at >= formats::kMinGapBytes) gaps.push_back({at, until - at});
  };
  for (const formats::IndexEntry& entry : entries) {
    add(entry.place);
    at = entry.place + unit_bytes;
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

Result<> check_unit_bytes(std::uint64_t unit_bytes) {
  if (std::has_single_bit(unit_bytes) && unit_bytes >= formats::kMinUnitBytes &&
      unit_bytes <= formats::kMaxUnitBytes) {
    return {};
  }
  return fail(Code::kInvalid, "unit size " + std::to_string(unit_bytes) +
                                  ": not a power of two from 4 KiB to 2 MiB");
}

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

void UnitRuns::add(std::uint64_t offset, std::uint64_t bytes) {
  const UnitRun run = {offset / unit_bytes_, (offset + bytes + unit_bytes_ - 1) / unit_bytes_};
  if (!runs_.empty() && run.first >= runs_.back().first && run.first <= runs_.back().end) {
    runs_.back().end = std::max(runs_.back().end, run.end);
  } else {
    runs_.push_back(run);
  }
}

std::vector<UnitRun> UnitRuns::take() {
  std::ranges::sort(runs_, std::less<>(), &UnitRun::first);
  std::vector<UnitRun> merged;
  for (const UnitRun& run : runs_) {
    if (!merged.empty() && run.first <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, run.end);
    } else {
      merged.push_back(run);
    }
  }
  runs_.clear();
  return merged;
}

Result<std::vector<UnitRun>> OwnUnits::units(const vmm::GuestMemory::Region& region) {
  region_ = region.host.bytes();
  UnitRuns runs(unit_bytes_);
  std::uint64_t at = 0;
  const auto add_touched = [&](std::uint64_t until) -> Result<> {
    for (const PageRange& pages :
         VOLT_TRY(private_pages(region_.subspan(at, until - at), Behind::kNothing))) {
      runs.add(at + pages.first * kPageBytes, pages.count * kPageBytes);
    }
    return {};
  };
  for (const vmm::GuestMemory::Range& range : region.backed) {
    VOLT_TRY(add_touched(range.offset));
    runs.add(range.offset, range.bytes);
    at = range.offset + range.bytes;
  }
  VOLT_TRY(add_touched(region_.size()));
  return runs.take();
}

Result<std::optional<UnitSum>> OwnUnits::read(std::uint64_t unit, std::span<std::byte> into) {
  // Copied first: what is summed is what is written, and a page that cannot be had is an error.
  VOLT_TRY(guarded_copy(into, region_.subspan(unit * unit_bytes_, unit_bytes_)));
  if (is_zero(into)) return std::nullopt;
  return UnitSum{formats::xxh128(into)};
}

Result<std::vector<formats::IndexEntry>> write_memory(const vmm::GuestMemory& memory,
                                                      UnitSource& source, std::uint64_t unit_bytes,
                                                      const Fd& file) {
  VOLT_TRY(check_units(memory, unit_bytes));
  std::vector<formats::IndexEntry> entries;
  std::vector<std::byte> unit(unit_bytes);
  std::uint64_t file_offset = 0;
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    for (const UnitRun& run : VOLT_TRY(source.units(region))) {
      for (std::uint64_t i = run.first; i < run.end; ++i) {
        VOLT_TRY(vmm::check_stop());
        const auto sum = VOLT_TRY(source.read(i, unit));
        if (!sum) continue;
        const std::uint64_t place = file_offset + i * unit_bytes;
        if (!sum->stored) VOLT_TRY(write_all(file, unit, place, kMemoryFile));
        entries.push_back(
            {.unit = region.guest_base / unit_bytes + i, .sum = sum->sum, .place = place});
      }
    }
    file_offset += region.host.size();
  }
  if (::ftruncate(file.get(), static_cast<off_t>(file_offset)) != 0) {
    return sys_error("ftruncate", kMemoryFile);
  }
  return entries;
}

Result<std::uint64_t> place_of(const vmm::GuestMemory& memory, std::uint64_t address) {
  const std::span<std::byte> host = VOLT_TRY(memory.at(address, 1));
  std::uint64_t file_offset = 0;
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    const auto into = static_cast<std::uint64_t>(host.data() - region.host.data());
    if (into < region.host.size()) return file_offset + into;
    file_offset += region.host.size();
  }
  return fail(Code::kInvalid, "guest memory: no region has what is RAM");
}

formats::v1::Memory describe_memory(const vmm::GuestMemory& memory, std::uint64_t unit_bytes,
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
  message.set_unit_bytes(unit_bytes);
  message.set_stored_bytes(entries.size() * unit_bytes);
  const formats::Sha256 digest = formats::memory_digest(entries, unit_bytes);
  message.set_digest(digest.data(), digest.size());

  std::uint64_t at = 0;
  for (const Gap& gap : longest_gaps(entries, unit_bytes, file_offset)) {
    add_data(message, at, gap.offset);
    at = gap.offset + gap.bytes;
  }
  add_data(message, at, file_offset);
  return message;
}

}  // namespace volt::snapshot
