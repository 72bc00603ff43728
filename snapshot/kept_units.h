// Units that stay where they are stored already, while others of the same snapshot are packed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/unit_table.h"
#include "snapshot/opened.h"
#include "snapshot/pack_writer.h"

namespace volt::snapshot {

struct KeptUnits {
  std::vector<formats::Container> containers;
  std::vector<std::optional<formats::StoredUnit>> units;  // one for each entry, or none at all

  bool has(std::uint64_t i) const { return i < units.size() && units[i]; }
  // Only units in containers whose number `stays` says so are kept on.
  void keep_in(const std::vector<bool>& stays);
  // Puts them, and the containers they are in, into a table that has all others.
  Result<> add_to(PackedUnits& table) const;
};

// Every unit of a snapshot where it is; its `memory` counts as the layer that it wrote.
Result<KeptUnits> stored_units(const OpenedSnapshot& snapshot);

}  // namespace volt::snapshot
