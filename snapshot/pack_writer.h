// Packs units: compresses them on several threads, shares those that some pack has already, and
// appends the rest to one new pack in the order it was told.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "formats/memory_index.h"
#include "formats/unit_table.h"
#include "snapshot/ordered_work.h"
#include "snapshot/packs.h"
#include "snapshot/unit_codec.h"

namespace volt::snapshot {

struct PackOptions {
  int level = kDefaultLevel;
  unsigned threads = default_threads();
};

// What packing came to.
struct PackedUnits {
  std::vector<formats::StoredUnit> units;      // one for each entry of the index, in its order
  std::vector<formats::Container> containers;  // packs, the new one among them if there is one
  std::optional<std::uint32_t> written;        // which of them is new
  std::uint64_t stored_bytes = 0;              // in the new pack
  std::uint64_t shared_units = 0;              // found stored already
};

// Gives the bytes of the unit of entry i, checked; called on several threads, each with a reader of
// its own.
using ReadUnit = std::function<Result<>(std::uint64_t i, std::span<std::byte> into)>;
using MakeReader = std::function<ReadUnit()>;

// `order` has each entry's number once: the order of units in the pack. The new pack is durable and
// in packs/ when this returns, and linked by nobody yet: `packs` must stay locked until it is.
Result<PackedUnits> pack_units(const Packs& packs, std::span<const formats::IndexEntry> entries,
                               std::span<const std::uint64_t> order, std::uint64_t unit_bytes,
                               const MakeReader& make_reader, const PackOptions& options);

}  // namespace volt::snapshot
