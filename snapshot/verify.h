// Whether what is stored is what was stored: of one snapshot, and of the whole data directory.
#pragma once

#include <string>
#include <vector>

#include "snapshot/check_memory.h"
#include "snapshot/store.h"

namespace volt::snapshot {

enum class Depth {
  kHeads,  // manifest, state and every block of the index; sizes; nothing that does not belong
  kDeep,   // every unit of memory besides, and that what the index calls zero is zero
};

// kCorrupt names file and field.
Result<Verified> verify(const Store& store, const Reference& reference, Depth depth);

// Head and table of every pack. Units are verified with the snapshots that use them.
Result<> verify_packs(const Store& store);

// What in the data directory belongs to no snapshot: strange files, dangling names, and what a
// killed writer left behind. Not damage.
Result<std::vector<std::string>> find_strays(const Store& store);

}  // namespace volt::snapshot
