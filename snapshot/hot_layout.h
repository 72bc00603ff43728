// The order in which units are packed: those of the hot set first, as they are touched, so that
// what a restore asks for ahead of its guest comes from the disk in one piece.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/hot_set.h"
#include "formats/memory_index.h"
#include "snapshot/kept_units.h"
#include "snapshot/opened.h"

namespace volt::snapshot {

// Entries, ascending by unit, that hold the hot pages, in the order of first touch, each once. A
// page of zeros has none.
std::vector<std::uint64_t> hot_entries(const formats::HotSet& set,
                                       std::span<const formats::IndexEntry> entries,
                                       std::uint64_t unit_bytes);

// Those of a snapshot's own hot set; none where nothing was recorded. How memory is stored is no
// part of what a snapshot is, so a hot set that a restore would refuse is told here, and stops
// nobody.
struct HotOrder {
  std::vector<std::uint64_t> entries;
  std::string unusable;  // why the one that is there was left out
};
HotOrder hot_order(const OpenedSnapshot& snapshot, std::span<const formats::IndexEntry> entries);

// Whether those of `hot` that are in no unit of `kept` lie one behind the other in one pack.
Result<bool> laid_out(const formats::UnitTable& table, std::span<const std::uint64_t> hot,
                      const KeptUnits& kept);

}  // namespace volt::snapshot
