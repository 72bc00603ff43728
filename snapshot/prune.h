// Gives back what no snapshot needs: drafts of killed writers, packs without users, files left
// beside a snapshot whose storage was changed, and units inside packs that others still use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/pack_writer.h"
#include "snapshot/store.h"

namespace volt::snapshot {

struct PruneOptions {
  bool dry_run = false;
  // A pack is written anew when this share of it is dead, in percent.
  unsigned dead_percent = 20;
  PackOptions pack;
};

struct Pruned {
  struct Item {
    std::string what;
    std::uint64_t bytes;
  };
  std::vector<Item> removed;
  std::uint64_t bytes = 0;            // of all items, less what was written instead
  std::uint64_t kept_dead_bytes = 0;  // dead, in packs that are not worth writing anew
};

// kBusy while a snapshot is being packed. Nothing that a snapshot refers to is ever removed: what
// cannot be read is left alone, and ends the pruning of packs.
Result<Pruned> prune(const Store& store, const PruneOptions& options);

}  // namespace volt::snapshot
