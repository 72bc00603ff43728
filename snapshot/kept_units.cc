#include "snapshot/kept_units.h"

#include <algorithm>

namespace volt::snapshot {

Result<KeptUnits> stored_units(const OpenedSnapshot& snapshot) {
  if (!snapshot.is_raw()) {
    KeptUnits kept = {.containers = snapshot.units().containers(), .units = {}};
    for (std::uint64_t i = 0; i < snapshot.units().entry_count(); ++i) {
      kept.units.push_back(VOLT_TRY(snapshot.units().at(i)));
    }
    return kept;
  }
  const WholeIndex whole = VOLT_TRY(snapshot.whole_index());
  KeptUnits kept = {.containers = {{formats::Container::Kind::kLayer, snapshot.digest()}},
                    .units = {}};
  const auto bytes = static_cast<std::uint32_t>(whole.index->unit_bytes());
  for (std::uint64_t i = 0; i < whole.index->entry_count(); ++i) {
    const formats::IndexEntry entry = VOLT_TRY(whole.index->at(i));
    kept.units.push_back(formats::StoredUnit{entry.sum, entry.place, 0, bytes});
  }
  return kept;
}

void KeptUnits::keep_in(const std::vector<bool>& stays) {
  for (std::optional<formats::StoredUnit>& unit : units) {
    if (unit && !stays[unit->container]) unit.reset();
  }
}

Result<> KeptUnits::add_to(PackedUnits& table) const {
  std::vector<std::optional<std::uint32_t>> numbers(containers.size());  // in the table
  for (std::uint64_t i = 0; i < units.size(); ++i) {
    if (!units[i]) continue;
    std::optional<std::uint32_t>& number = numbers[units[i]->container];
    if (!number) {
      const formats::Container& container = containers[units[i]->container];
      const auto at = std::ranges::find(table.containers, container);
      number = static_cast<std::uint32_t>(at - table.containers.begin());
      if (at == table.containers.end()) table.containers.push_back(container);
    }
    table.units[i] = *units[i];
    table.units[i].container = *number;
  }
  if (table.containers.size() <= formats::kMaxContainers) return {};
  return fail(Code::kUnsupported, "a snapshot can use at most " +
                                      std::to_string(formats::kMaxContainers) + " containers");
}

}  // namespace volt::snapshot
