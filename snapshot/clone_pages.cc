#include "snapshot/clone_pages.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "snapshot/check_memory.h"
#include "vmm/os/fault_guard.h"

namespace volt::snapshot {
Result<ParentUnits> ParentUnits::of(const OpenedSnapshot& parent) {
  WholeIndex whole = VOLT_TRY_IN("parent", parent.whole_index());
  VOLT_TRY_IN("parent", check_agreement(parent.manifest().memory(), *whole.index));
  return ParentUnits(parent, std::move(whole));
}

ParentUnits::ParentUnits(const OpenedSnapshot& parent, WholeIndex whole)
    : snapshot_(&parent),
      whole_(std::move(whole)),
      reader_(parent, index()),
      unit_(index().unit_bytes()) {}

Result<> ParentUnits::check_zeros() const {
  [[maybe_unused]] const std::uint64_t read =
      VOLT_TRY_IN("parent", check_gaps(*snapshot_, index()));
  return {};
}

Result<> ParentUnits::check_zero(std::uint64_t unit) const {
  const std::uint64_t bytes = index().unit_bytes();
  VOLT_TRY_IN("parent", check_zero_at(*snapshot_, unit * bytes, bytes));
  return {};
}

Result<> ParentUnits::read(std::uint64_t unit, std::span<std::byte> into) {
  const auto i = VOLT_TRY(index().position_of(unit));
  if (!i) {
    std::ranges::fill(into, std::byte{0});
    return {};
  }
  VOLT_TRY_IN("parent", reader_.read(*i, into));
  return {};
}

Result<> ParentUnits::read_range(std::uint64_t address, std::span<std::byte> into) {
  while (!into.empty()) {
    const std::uint64_t number = address / unit_.size();
    if (held_ != number) {
      held_.reset();
      VOLT_TRY(read(number, unit_));
      held_ = number;
    }
    const auto rest = std::span(unit_).subspan(address % unit_.size());
    const auto part = rest.first(std::min(rest.size(), into.size()));
    std::memcpy(into.data(), part.data(), part.size());
    into = into.subspan(part.size());
    address += part.size();
  }
  return {};
}

Result<CloneUnits> CloneUnits::of(const OpenedSnapshot& parent, ShownBy how,
                                  std::uint64_t unit_bytes, Unchanged unchanged,
                                  PageFinder finder) {
  ParentUnits units = VOLT_TRY(ParentUnits::of(parent));
  if (unchanged == Unchanged::kRead && how == ShownBy::kMap) VOLT_TRY(units.check_zeros());
  if (unchanged == Unchanged::kLeave && units.index().unit_bytes() != unit_bytes) {
    return fail(Code::kInvalid, "unit size " + std::to_string(unit_bytes) +
                                    ": a difference has the units of its parent, of " +
                                    std::to_string(units.index().unit_bytes()) + " bytes");
  }
  return CloneUnits(std::move(units), how, unit_bytes, unchanged, finder);
}

CloneUnits::CloneUnits(ParentUnits parent, ShownBy how, std::uint64_t unit_bytes,
                       Unchanged unchanged, PageFinder finder)
    : parent_(std::move(parent)),
      how_(how),
      unit_bytes_(unit_bytes),
      leave_(unchanged == Unchanged::kLeave),
      finder_(finder),
      same_units_(parent_.index().unit_bytes() == unit_bytes) {}

// What the parent stores, and what the clone has to itself. Nothing else can hold anything.
Result<std::vector<UnitRun>> CloneUnits::units(const vmm::GuestMemory::Region& region) {
  guest_base_ = region.guest_base;
  region_ = region.host.bytes();
  pages_ = VOLT_TRY(own_pages(region, finder_));
  UnitRuns runs(unit_bytes_);
  const formats::MemoryIndex& index = parent_.index();
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const std::uint64_t offset = entry.unit * index.unit_bytes() - guest_base_;
    if (offset < region_.size()) runs.add(offset, index.unit_bytes());
  }
  for (const PageRange& pages : pages_) {
    runs.add(pages.first * kPageBytes, pages.count * kPageBytes);
  }
  // A page that a copy does not have (any more) is zero, whatever the parent has there.
  if (how_ == ShownBy::kCopy) pages_ = {{0, region_.size() / kPageBytes}};
  return runs.take();
}

std::span<const PageRange> CloneUnits::pages_in(std::uint64_t unit) const {
  const std::uint64_t first = unit * unit_bytes_ / kPageBytes;
  const std::uint64_t end = first + unit_bytes_ / kPageBytes;
  const auto from =
      std::ranges::lower_bound(pages_, first, std::less_equal<>(),
                               [](const PageRange& pages) { return pages.first + pages.count; });
  const auto to = std::ranges::lower_bound(from, pages_.end(), end, {}, &PageRange::first);
  return {from, to};
}

// Puts the clone's own pages over the parent's, and tells whether that changed anything.
Result<bool> CloneUnits::overlay(std::uint64_t unit, std::span<const PageRange> pages,
                                 std::span<std::byte> into) const {
  const std::uint64_t first = unit * unit_bytes_ / kPageBytes;
  const std::uint64_t end = first + unit_bytes_ / kPageBytes;
  std::array<std::byte, kPageBytes> page;
  bool changed = false;
  for (const PageRange& range : pages) {
    const std::uint64_t until = std::min(range.first + range.count, end);
    for (std::uint64_t n = std::max(range.first, first); n < until; ++n) {
      VOLT_TRY(guarded_copy(page, region_.subspan(n * kPageBytes, kPageBytes)));
      const auto place = into.subspan((n - first) * kPageBytes, kPageBytes);
      if (std::memcmp(place.data(), page.data(), kPageBytes) == 0) continue;
      std::memcpy(place.data(), page.data(), kPageBytes);
      changed = true;
    }
  }
  return changed;
}

Result<std::optional<std::uint64_t>> CloneUnits::parent_entry(std::uint64_t address) const {
  if (!same_units_) return std::nullopt;
  return parent_.index().position_of(address / unit_bytes_);
}

Result<> CloneUnits::read_parent(std::uint64_t address, std::span<std::byte> into) {
  return same_units_ ? parent_.read(address / unit_bytes_, into)
                     : parent_.read_range(address, into);
}

Result<std::optional<UnitSum>> CloneUnits::read(std::uint64_t unit, std::span<std::byte> into) {
  const std::uint64_t address = guest_base_ + unit * unit_bytes_;
  const std::optional<std::uint64_t> entry = VOLT_TRY(parent_entry(address));
  const std::span<const PageRange> own = pages_in(unit);
  bool changed = false;
  if (!leave_ || !own.empty()) {
    // What the clone saw under its pages; of all other gaps nothing is said here.
    if (leave_ && how_ == ShownBy::kMap && !entry) {
      VOLT_TRY(parent_.check_zero(address / unit_bytes_));
    }
    VOLT_TRY(read_parent(address, into));
    changed = VOLT_TRY(overlay(unit, own, into));
  }
  ++(own.empty() ? counts_.taken_over : changed ? counts_.changed : counts_.equal);
  if (changed) changed_.push_back(address);
  if (!changed && same_units_) {
    if (!entry) return std::nullopt;
    left_.push_back(leave_ ? *entry : kNotLeft);
    const formats::IndexEntry parents = VOLT_TRY(parent_.index().at(*entry));
    return UnitSum{.sum = parents.sum, .stored = leave_};
  }
  if (is_zero(into)) return std::nullopt;
  left_.push_back(kNotLeft);
  return UnitSum{formats::xxh128(into)};
}

}  // namespace volt::snapshot
