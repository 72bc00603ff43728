#include "snapshot/difference.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "snapshot/clone_pages.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using formats::Container;

std::string why_not(int error) {
  switch (error) {
    case ENOENT:
      return "its parent's files were removed meanwhile";
    case EXDEV:
      return "its parent is in another file system";
    case EMLINK:
      return "its parent's memory has as many links as the file system allows";
    case EPERM:
    case EACCES:
      return "its parent's memory is somebody else's";
    default:
      return {};
  }
}

// By the descriptor: the name may be another file's by now, or gone.
int link_open_file(const Fd& file, const Fd& dir, const std::string& name) {
  const std::string from = "/proc/self/fd/" + std::to_string(file.get());
  return ::linkat(AT_FDCWD, from.c_str(), dir.get(), name.c_str(), AT_SYMLINK_FOLLOW);
}

Result<> unlink_all(const std::vector<Container>& containers, const Fd& dir) {
  for (const Container& each : containers) {
    const std::string name = container_file_name(each);
    if (::unlinkat(dir.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return sys_error("unlink", name);
    }
  }
  return {};
}

}  // namespace

Result<LinkedOrNot> LinkedParent::link(const OpenedSnapshot& parent, const Fd& dir) {
  LinkedParent linked(VOLT_TRY_IN("parent", stored_units(parent)));
  const std::vector<Container>& containers = linked.stored_.containers;
  const auto layers = std::ranges::count(containers, Container::Kind::kLayer, &Container::kind);
  if (static_cast<std::size_t>(layers) >= kMaxLayers) {
    return LinkedOrNot{.parent = std::nullopt,
                       .why_not = "its parent lies in " + std::to_string(layers) +
                                  " layers (`volt snapshot compact` folds them)"};
  }
  for (std::size_t i = 0; i < containers.size(); ++i) {
    const Fd& file = parent.is_raw() ? parent.memory() : parent.containers()[i].file;
    const std::string name = container_file_name(containers[i]);
    if (link_open_file(file, dir, name) == 0) continue;
    std::string why = why_not(errno);
    if (why.empty()) return sys_error("link", name);
    VOLT_TRY(unlink_all(containers, dir));
    return LinkedOrNot{.parent = std::nullopt, .why_not = std::move(why)};
  }
  return LinkedOrNot{.parent = std::move(linked), .why_not = {}};
}

Result<KeptUnits> LinkedParent::keep(std::span<const std::uint64_t> entries, const Fd& dir) const {
  KeptUnits kept = {.containers = stored_.containers, .units = {}};
  std::vector<bool> used(kept.containers.size());
  kept.units.reserve(entries.size());
  for (const std::uint64_t entry : entries) {
    kept.units.push_back(entry == CloneUnits::kNotLeft ? std::nullopt : stored_.units[entry]);
    if (kept.units.back()) used[kept.units.back()->container] = true;
  }
  std::vector<Container> others;
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) others.push_back(kept.containers[i]);
  }
  VOLT_TRY(unlink_all(others, dir));
  return kept;
}

Result<std::uint64_t> store_as_layer(const CapturedUnits& units, const LinkedParent& parent,
                                     const Fd& dir, const Fd& memory) {
  const Container own = {Container::Kind::kLayer, units.snapshot_digest};
  const auto unit_bytes = static_cast<std::uint32_t>(units.unit_bytes);
  PackedUnits table;
  for (std::size_t i = 0; i < units.entries.size(); ++i) {
    const formats::IndexEntry& entry = units.entries[i];
    table.units.push_back({entry.sum, entry.place, 0, unit_bytes});
    if (units.left[i] == CloneUnits::kNotLeft) table.stored_bytes += unit_bytes;
  }
  if (table.stored_bytes > 0) {
    table.containers = {own};
    VOLT_TRY(sync(memory, kMemoryFile));
    const std::string name = container_file_name(own);
    if (::renameat(dir.get(), kMemoryFile, dir.get(), name.c_str()) != 0) {
      return sys_error("rename", name);
    }
  } else if (::unlinkat(dir.get(), kMemoryFile, 0) != 0) {
    return sys_error("unlink", kMemoryFile);
  }
  const KeptUnits kept = VOLT_TRY(parent.keep(units.left, dir));
  VOLT_TRY(kept.add_to(table));
  [[maybe_unused]] const std::uint64_t table_bytes =
      VOLT_TRY(write_units(dir, table, units.memory_digest, units.unit_bytes));
  return table.stored_bytes;
}

Result<std::uint64_t> store_in_packs(const CapturedUnits& units, const LinkedParent& parent,
                                     const Fd& dir, const Fd& memory, const Packs& packs,
                                     const PackOptions& options) {
  KeptUnits kept = VOLT_TRY(parent.keep(units.left, dir));
  const UnitsToPack to_pack = {.entries = units.entries,
                               .memory_digest = units.memory_digest,
                               .unit_bytes = units.unit_bytes,
                               .make_reader = raw_reader(memory, units.entries),
                               .kept = std::move(kept)};
  const StorageChange change = VOLT_TRY(pack_into(packs, dir, to_pack, options));
  if (::unlinkat(dir.get(), kMemoryFile, 0) != 0) return sys_error("unlink", kMemoryFile);
  return change.written_bytes;
}

}  // namespace volt::snapshot
