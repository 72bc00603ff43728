// How a snapshot's memory is stored: raw, in a file that can be mapped, or packed, in units that
// are compressed and shared between snapshots. Changing it changes nothing of what the snapshot is:
// its digest stays, clones that run go on, and a restore meanwhile finds the old files or the new.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "snapshot/opened.h"
#include "snapshot/pack_writer.h"

namespace volt::snapshot {

enum class Storage { kRaw, kPacked };
const char* storage_name(Storage storage);
Result<Storage> parse_storage(std::string_view name);

struct StorageChange {
  bool changed = true;  // false: it was stored like that already
  std::uint64_t units = 0;
  std::uint64_t shared_units = 0;   // that another snapshot stored before
  std::uint64_t written_bytes = 0;  // new bytes on disk
};

// Packs the memory of a snapshot in the store. Nothing to do if it is packed already.
Result<StorageChange> pack(const Store& store, const Reference& reference,
                           const PackOptions& options);
// Writes the memory of a snapshot in the store as one raw file.
Result<StorageChange> unpack(const Store& store, const Reference& reference, unsigned threads);

// Packs a packed snapshot again, sharing from `packs` as they are now; its digest stays.
Result<StorageChange> repack(const Store& store, const Packs& packs, const Reference& reference,
                             const PackOptions& options);

// A snapshot as it is while `dir` lives: no other process changes how it is stored meanwhile, or
// removes its files as garbage.
struct LockedSnapshot {
  OpenedSnapshot snapshot;
  Fd dir;
};
// kBusy if another process is changing it.
Result<LockedSnapshot> open_locked(const Store& store, const Reference& reference);
// Files in a snapshot's directory that hold none of it (any more). Who acts on the answer holds its
// lock.
Result<std::vector<std::string>> unused_files(const Fd& dir);

// Packs what `entries` describe, and makes `units` and the links it needs in the directory `dir`
// of a snapshot or a draft. `hot` are entries to go first, in that order.
struct UnitsToPack {
  std::span<const formats::IndexEntry> entries;
  std::span<const std::uint64_t> hot;
  formats::Sha256 memory_digest;
  std::uint64_t unit_bytes;
  MakeReader make_reader;
};
// Reads units from a raw memory file, each where its entry says, and checks its sum.
MakeReader raw_reader(const Fd& memory, std::span<const formats::IndexEntry> entries);
Result<StorageChange> pack_into(const Packs& packs, const Fd& dir, const UnitsToPack& units,
                                const PackOptions& options);

}  // namespace volt::snapshot
