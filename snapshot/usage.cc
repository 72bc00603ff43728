#include "snapshot/usage.h"

#include <sys/stat.h>

#include <set>

namespace volt::snapshot {
namespace {

// Each stored unit of a snapshot once, however many of its entries are that unit.
template <typename F>
Result<> for_each_stored(const OpenedSnapshot& snapshot, F&& use) {
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
  for (std::uint64_t i = 0; i < snapshot.units().entry_count(); ++i) {
    const formats::StoredUnit unit = VOLT_TRY(snapshot.units().at(i));
    if (!seen.emplace(unit.container, unit.offset).second) continue;
    use(snapshot.containers()[unit.container].name, unit);
  }
  return {};
}

}  // namespace

Result<> UsageCount::add(const OpenedSnapshot& snapshot) {
  if (snapshot.is_raw()) return {};
  if (!counted_.emplace(formats::to_hex(snapshot.digest()), true).second) return {};
  return for_each_stored(snapshot, [&](const std::string& name, const formats::StoredUnit& unit) {
    Unit& used = used_[name][unit.offset];
    used.stored_bytes = unit.stored_bytes;
    ++used.users;
  });
}

Result<Usage> UsageCount::of(const OpenedSnapshot& snapshot) const {
  Usage usage;
  if (snapshot.is_raw()) {
    struct stat info;
    if (::fstat(snapshot.memory().get(), &info) != 0) return sys_error("fstat", kMemoryFile);
    usage.stored_bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;
    // As a layer of a snapshot that holds only what differs from this one.
    if (info.st_nlink > 1) usage.shared_bytes = usage.stored_bytes;
    return usage;
  }
  VOLT_TRY(for_each_stored(snapshot, [&](const std::string& name, const formats::StoredUnit& unit) {
    usage.stored_bytes += unit.stored_bytes;
    const auto container = used_.find(name);
    if (container == used_.end()) return;
    const auto used = container->second.find(unit.offset);
    if (used != container->second.end() && used->second.users > 1) {
      usage.shared_bytes += unit.stored_bytes;
    }
  }));
  return usage;
}

std::map<std::string, std::uint64_t> UsageCount::live_bytes() const {
  std::map<std::string, std::uint64_t> live;
  for (const auto& [name, units] : used_) {
    for (const auto& [offset, unit] : units) live[name] += unit.stored_bytes;
  }
  return live;
}

Result<UsageCount> count_usage(const Store& store) {
  UsageCount count;
  for (const ListedSnapshot& each : VOLT_TRY(store.list())) {
    const auto opened = OpenedSnapshot::open(store, each.reference);
    // One that cannot be read says so where it is shown; the others are counted all the same.
    if (opened) [[maybe_unused]]
      const auto added = count.add(*opened);
  }
  return count;
}

}  // namespace volt::snapshot
