// Reads all memory of a snapshot and checks it.
#pragma once

#include <cstdint>

#include "snapshot/opened.h"

namespace volt::snapshot {

struct Verified {
  std::uint64_t units = 0;  // whose sums were right
  std::uint64_t bytes_read = 0;
};

// That index, extents and unit table agree; every unit's sums; and, where memory is raw, that what
// the index calls zero is zero: loader map shows both to a guest.
Result<Verified> check_memory(const OpenedSnapshot& snapshot);

// That what the index calls zero is zero in the raw memory file; tells how much was read.
Result<std::uint64_t> check_gaps(const OpenedSnapshot& snapshot, const formats::MemoryIndex& index);
// The same for a guest-physical range within a region, all of which the index calls zero.
Result<> check_zero_at(const OpenedSnapshot& snapshot, std::uint64_t address, std::uint64_t bytes);

}  // namespace volt::snapshot
