#include "snapshot/usage.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <vector>

namespace volt::snapshot {
namespace {

// Each stored unit of a snapshot once, however many of its entries are that unit, by container.
template <typename F>
Result<> for_each_stored(const OpenedSnapshot& snapshot, F&& use) {
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
  for (std::uint64_t i = 0; i < snapshot.units().entry_count(); ++i) {
    const formats::StoredUnit unit = VOLT_TRY(snapshot.units().at(i));
    if (seen.emplace(unit.container, unit.offset).second) use(unit);
  }
  return {};
}

Result<struct stat> info_of(const Fd& file, const std::string& name) {
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return sys_error("fstat", name);
  return info;
}

}  // namespace

Result<UsageCount::FileId> UsageCount::id_of(const Fd& file, const std::string& name) {
  const struct stat info = VOLT_TRY(info_of(file, name));
  return FileId{info.st_dev, info.st_ino};
}

Result<> UsageCount::add(const OpenedSnapshot& snapshot) {
  if (!counted_.emplace(formats::to_hex(snapshot.digest()), true).second) return {};
  if (snapshot.is_raw()) return add_raw(snapshot);
  std::vector<File*> files;
  for (const OpenedSnapshot::Container& each : snapshot.containers()) {
    files.push_back(&used_[VOLT_TRY(id_of(each.file, each.name))]);
    files.back()->name = each.name;
  }
  return for_each_stored(snapshot, [&](const formats::StoredUnit& unit) {
    Unit& used = files[unit.container]->units[unit.offset];
    used.stored_bytes = unit.stored_bytes;
    ++used.users;
  });
}

// Nobody else can use a memory file with one link.
Result<> UsageCount::add_raw(const OpenedSnapshot& snapshot) {
  const struct stat info = VOLT_TRY(info_of(snapshot.memory(), kMemoryFile));
  if (info.st_nlink == 1) return {};
  File& file = used_[VOLT_TRY(id_of(snapshot.memory(), kMemoryFile))];
  const WholeIndex whole = VOLT_TRY(snapshot.whole_index());
  for (std::uint64_t i = 0; i < whole.index->entry_count(); ++i) {
    const formats::IndexEntry entry = VOLT_TRY(whole.index->at(i));
    Unit& used = file.units[entry.place];
    used.stored_bytes = static_cast<std::uint32_t>(whole.index->unit_bytes());
    ++used.users;
  }
  return {};
}

Result<Usage> UsageCount::of(const OpenedSnapshot& snapshot) const {
  Usage usage;
  if (snapshot.is_raw()) {
    const struct stat info = VOLT_TRY(info_of(snapshot.memory(), kMemoryFile));
    usage.stored_bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;
    const auto file = used_.find(VOLT_TRY(id_of(snapshot.memory(), kMemoryFile)));
    if (file == used_.end()) return usage;
    for (const auto& [offset, unit] : file->second.units) {
      if (unit.users > 1) usage.shared_bytes += unit.stored_bytes;
    }
    // What is stored may be less than its units, where a file system keeps zeros as holes.
    usage.shared_bytes = std::min(usage.shared_bytes, usage.stored_bytes);
    return usage;
  }
  std::vector<const File*> files;
  for (const OpenedSnapshot::Container& each : snapshot.containers()) {
    const auto file = used_.find(VOLT_TRY(id_of(each.file, each.name)));
    files.push_back(file == used_.end() ? nullptr : &file->second);
  }
  VOLT_TRY(for_each_stored(snapshot, [&](const formats::StoredUnit& unit) {
    usage.stored_bytes += unit.stored_bytes;
    const File* const file = files[unit.container];
    if (file == nullptr) return;
    const auto used = file->units.find(unit.offset);
    if (used != file->units.end() && used->second.users > 1) {
      usage.shared_bytes += unit.stored_bytes;
    }
  }));
  return usage;
}

std::map<std::string, std::uint64_t> UsageCount::live_bytes() const {
  std::map<std::string, std::uint64_t> live;
  for (const auto& [id, file] : used_) {
    if (file.name.empty()) continue;  // nobody's container
    for (const auto& [offset, unit] : file.units) live[file.name] += unit.stored_bytes;
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
