// How a snapshot's memory is stored: raw, in a file that can be mapped, or packed, in units that
// are compressed and shared between snapshots. Changing it changes nothing of what the snapshot is:
// its digest stays, clones that run go on, and a restore meanwhile finds the old files or the new.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/kept_units.h"
#include "snapshot/opened.h"
#include "snapshot/pack_writer.h"

namespace volt::snapshot {

enum class Storage { kRaw, kPacked };
const char* storage_name(Storage storage);
Result<Storage> parse_storage(std::string_view name);

struct StorageChange {
  bool changed = true;  // false: it was stored like that already
  std::uint64_t units = 0;
  std::uint64_t shared_units = 0;     // that another snapshot stored before
  std::uint64_t written_bytes = 0;    // new bytes on disk
  std::uint64_t hot_units = 0;        // put at the front of a new pack, in the order of first touch
  std::string hot_set_unusable = {};  // why the hot set that is there gave no order
};

// Packs the memory of a snapshot in the store, that in layers too: the units of its hot set first.
// Nothing to do if it is packed already.
Result<StorageChange> pack(const Store& store, const Reference& reference,
                           const PackOptions& options);
// The same, and what is packed already is packed anew if its hot set, recorded later, does not lie
// together in that order. Units in packs that other snapshots use too stay there, shared.
// kConflict without a hot set.
Result<StorageChange> relayout(const Store& store, const Reference& reference,
                               const PackOptions& options);
// Writes the memory of a snapshot in the store as one raw file, wherever it is now.
Result<StorageChange> unpack(const Store& store, const Reference& reference, unsigned threads);

// Folds a snapshot that is stored as a difference into one that has no other snapshot's layers: one
// raw file, or packs. The same as the two above.
Result<StorageChange> compact(const Store& store, const Reference& reference, Storage into,
                              const PackOptions& options);

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
// The same for one that is open, to put a file beside it.
Result<Fd> lock_storage(const OpenedSnapshot& snapshot);
// Makes a finished `units` file in the directory of a snapshot or a draft. Tells its size.
Result<std::uint64_t> write_units(const Fd& dir, const PackedUnits& table,
                                  const formats::Sha256& memory_digest, std::uint64_t unit_bytes);
// Files in a snapshot's directory that hold none of it (any more). Who acts on the answer holds its
// lock.
Result<std::vector<std::string>> unused_files(const Fd& dir);

// Packs what `entries` describe, and makes `units` and the links it needs in the directory `dir`
// of a snapshot or a draft. `hot` are entries to go first, in that order.
struct UnitsToPack {
  std::span<const formats::IndexEntry> entries;
  formats::Sha256 memory_digest;
  std::uint64_t unit_bytes;
  MakeReader make_reader;
  std::span<const std::uint64_t> hot = {};
  KeptUnits kept = {};  // not packed; whoever has these sees to the links
};
// Reads units from a raw memory file, each where its entry says, and checks its sum.
MakeReader raw_reader(const Fd& memory, std::span<const formats::IndexEntry> entries);
Result<StorageChange> pack_into(const Packs& packs, const Fd& dir, const UnitsToPack& units,
                                const PackOptions& options);

}  // namespace volt::snapshot
