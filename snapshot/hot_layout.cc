#include "snapshot/hot_layout.h"

#include <algorithm>
#include <optional>
#include <set>

#include "snapshot/hot_set.h"

namespace volt::snapshot {

std::vector<std::uint64_t> hot_entries(const formats::HotSet& set,
                                       std::span<const formats::IndexEntry> entries,
                                       std::uint64_t unit_bytes) {
  std::vector<std::uint64_t> hot;
  std::vector<bool> seen(entries.size());
  for (const formats::HotPage& page : set.pages) {
    const std::uint64_t unit = page.page * formats::kHotPageBytes / unit_bytes;
    const auto at = std::ranges::lower_bound(entries, unit, {}, &formats::IndexEntry::unit);
    if (at == entries.end() || at->unit != unit) continue;
    const auto i = static_cast<std::uint64_t>(at - entries.begin());
    if (!seen[i]) hot.push_back(i);
    seen[i] = true;
  }
  return hot;
}

HotOrder hot_order(const OpenedSnapshot& snapshot, std::span<const formats::IndexEntry> entries) {
  const auto set = read_hot_set(snapshot);
  if (!set) return {.entries = {}, .unusable = set.error().context};
  if (!*set) return {};
  return {.entries = hot_entries(**set, entries, snapshot.index().unit_bytes()), .unusable = {}};
}

Result<bool> laid_out(const formats::UnitTable& table, std::span<const std::uint64_t> hot,
                      const KeptUnits& kept) {
  std::optional<formats::StoredUnit> last;
  std::set<std::uint64_t> placed;  // a unit that is in memory twice is in a pack once
  for (const std::uint64_t i : hot) {
    if (kept.has(i)) continue;
    const formats::StoredUnit unit = VOLT_TRY(table.at(i));
    if (last && unit.container == last->container && placed.contains(unit.offset)) continue;
    const bool follows = !last || (unit.container == last->container &&
                                   unit.offset == last->offset + last->stored_bytes);
    if (!follows) return false;
    last = unit;
    placed.insert(unit.offset);
  }
  return true;
}

}  // namespace volt::snapshot
