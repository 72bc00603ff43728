// What the memory of a clone is made of when it is captured: pages of its own, and for the rest the
// units of the snapshot it came from. Only pages that the clone has already are read through it, so
// nothing is faulted in; everything else is read from the parent and checked against its sum.
//
// So a capture gives no valid sums to damaged bytes: a unit with a page of the clone's own is made
// from the checked unit of its parent too, which is what that page was copied from.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/memory_index.h"
#include "snapshot/memory_writer.h"
#include "snapshot/opened.h"
#include "snapshot/private_pages.h"
#include "snapshot/unit_reader.h"

namespace volt::snapshot {

// How a clone sees its parent's units.
enum class ShownBy {
  kMap,    // its memory file as it is, checked by nobody
  kPager,  // each unit checked when it was fetched
};

// The memory of a snapshot, of which every byte given was checked. Not for several threads.
class ParentUnits {
 public:
  // Checks first what a sum cannot tell later: that the index names the units the clone sees and,
  // under kMap, that it saw zeros where the index has nothing. `parent` outlives this.
  static Result<ParentUnits> of(const OpenedSnapshot& parent, ShownBy how);

  const formats::MemoryIndex& index() const { return *whole_.index; }
  // A whole unit, and its entry; zeros where it has none.
  Result<std::optional<formats::IndexEntry>> read(std::uint64_t unit, std::span<std::byte> into);
  // What was at a guest-physical range of any size, in any units. Neighbours are cheap.
  Result<> read_range(std::uint64_t address, std::span<std::byte> into);

 private:
  ParentUnits(const OpenedSnapshot& parent, WholeIndex whole);

  WholeIndex whole_;
  UnitReader reader_;
  std::vector<std::byte> unit_;        // the last one of read_range(),
  std::optional<std::uint64_t> held_;  // and which that is
};

struct UnitCounts {
  std::uint64_t taken_over = 0;  // without a page of the clone's own
  std::uint64_t equal = 0;       // with some, which hold what the parent has there
  std::uint64_t changed = 0;     // all that is stored, where no parent was compared with
};

class CloneUnits final : public UnitSource {
 public:
  CloneUnits(ParentUnits parent, std::uint64_t unit_bytes);

  Result<std::vector<UnitRun>> units(const vmm::GuestMemory::Region& region) override;
  Result<std::optional<formats::Xxh128>> read(std::uint64_t unit,
                                              std::span<std::byte> into) override;

  const UnitCounts& counts() const { return counts_; }
  // Guest-physical addresses of the units that differ from the parent's, ascending.
  std::span<const std::uint64_t> changed() const { return changed_; }

 private:
  std::span<const PageRange> pages_in(std::uint64_t unit) const;
  Result<bool> overlay(std::uint64_t unit, std::span<const PageRange> pages,
                       std::span<std::byte> into) const;

  ParentUnits parent_;
  std::uint64_t unit_bytes_;
  bool same_units_;  // a unit of the parent is one of ours, and so is its sum
  std::uint64_t guest_base_ = 0;
  std::span<const std::byte> region_;
  std::vector<PageRange> pages_;  // the clone's own pages of the region
  std::vector<std::uint64_t> changed_;
  UnitCounts counts_;
};

}  // namespace volt::snapshot
