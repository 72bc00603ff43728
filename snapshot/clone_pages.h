// What the memory of a clone is made of when it is captured: pages of its own, and for the rest the
// units of the snapshot it came from. Only pages that the clone has already are read through it, so
// nothing is faulted in; everything else is read from the parent and checked against its sum.
//
// So a capture gives no valid sums to damaged bytes: a unit with a page of the clone's own is made
// from the checked unit of its parent too, which is what that page was copied from. What a
// difference leaves in its parent's files is not read, and has the sums it had.
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
  kCopy,   // not any more: all of them were checked and copied, and every page is the clone's own
};

// What becomes of units that are the parent's.
enum class Unchanged {
  kRead,   // read and checked, to be written
  kLeave,  // left where the parent has them: those without a page of the clone's own are not read
};

// The memory of a snapshot, of which every byte given was checked. Not for several threads.
class ParentUnits {
 public:
  // Checks first what a sum cannot tell later: that the index names the units the clone sees.
  // `parent` outlives this.
  static Result<ParentUnits> of(const OpenedSnapshot& parent);

  const OpenedSnapshot& snapshot() const { return *snapshot_; }
  // What the index calls zero is zero in the parent's raw memory file: everywhere, or in one unit.
  Result<> check_zeros() const;
  Result<> check_zero(std::uint64_t unit) const;

  const formats::MemoryIndex& index() const { return *whole_.index; }
  // A whole unit; zeros where the index has none.
  Result<> read(std::uint64_t unit, std::span<std::byte> into);
  // What was at a guest-physical range of any size, in any units. Neighbours are cheap.
  Result<> read_range(std::uint64_t address, std::span<std::byte> into);

 private:
  ParentUnits(const OpenedSnapshot& parent, WholeIndex whole);

  const OpenedSnapshot* snapshot_;
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
  // Units that are left to the parent are as large as the parent's, or kInvalid.
  static Result<CloneUnits> of(const OpenedSnapshot& parent, ShownBy how, std::uint64_t unit_bytes,
                               Unchanged unchanged, PageFinder finder = PageFinder::kAuto);

  Result<std::vector<UnitRun>> units(const vmm::GuestMemory::Region& region) override;
  Result<std::optional<UnitSum>> read(std::uint64_t unit, std::span<std::byte> into) override;

  const UnitCounts& counts() const { return counts_; }
  // Guest-physical addresses of the units that differ from the parent's, ascending.
  std::span<const std::uint64_t> changed() const { return changed_; }
  // For each unit that is not zero, in the order they were read: the parent's entry where it was
  // left, or kNotLeft.
  static constexpr std::uint64_t kNotLeft = ~std::uint64_t{0};
  const std::vector<std::uint64_t>& left() const { return left_; }

 private:
  CloneUnits(ParentUnits parent, ShownBy how, std::uint64_t unit_bytes, Unchanged unchanged,
             PageFinder finder);
  Result<std::optional<std::uint64_t>> parent_entry(std::uint64_t address) const;
  Result<> read_parent(std::uint64_t address, std::span<std::byte> into);
  std::span<const PageRange> pages_in(std::uint64_t unit) const;
  Result<bool> overlay(std::uint64_t unit, std::span<const PageRange> pages,
                       std::span<std::byte> into) const;

  ParentUnits parent_;
  ShownBy how_;
  std::uint64_t unit_bytes_;
  bool leave_;
  PageFinder finder_;
  bool same_units_;  // a unit of the parent is one of ours, and so is its sum
  std::uint64_t guest_base_ = 0;
  std::span<const std::byte> region_;
  std::vector<PageRange> pages_;  // of the region, where the clone's own memory counts
  std::vector<std::uint64_t> changed_;
  std::vector<std::uint64_t> left_;
  UnitCounts counts_;
};

}  // namespace volt::snapshot
