// A snapshot that is stored as the difference from the one it was cloned of: the units that did not
// change stay where the parent has them, in files that get another hard link, in the snapshot's own
// directory. So removing the parent harms nobody, and a chain of differences is no deeper to read
// than one: each unit is in exactly one file, which the unit table names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/memory_index.h"
#include "snapshot/opened.h"
#include "snapshot/storage.h"

namespace volt::snapshot {

// A snapshot in more layers than this cannot be differed from: each is an open file of everyone who
// reads it. Packs do not count, for compacting would not make them fewer.
inline constexpr std::size_t kMaxLayers = 64;

struct LinkedOrNot;

// The files of a parent, linked into a draft.
class LinkedParent {
 public:
  // Links them all, or says why they cannot be linked, and leaves nothing: they were removed
  // meanwhile, are in another file system, or are too many layers.
  static Result<LinkedOrNot> link(const OpenedSnapshot& parent, const Fd& dir);

  // The units at these of its entries, in that order; CloneUnits::kNotLeft: none. Takes back the
  // links to files that have none of them.
  Result<KeptUnits> keep(std::span<const std::uint64_t> entries, const Fd& dir) const;

 private:
  explicit LinkedParent(KeptUnits stored) : stored_(std::move(stored)) {}
  KeptUnits stored_;
};

struct LinkedOrNot {
  std::optional<LinkedParent> parent;
  std::string why_not;
};

// Stores what is the snapshot's own, in the sparse file `memory` of its draft until now, as a layer
// or in packs, and writes the table of all. Tells what was written.
struct CapturedUnits {
  std::span<const formats::IndexEntry> entries;
  std::span<const std::uint64_t> left;  // see CloneUnits::left()
  formats::Sha256 snapshot_digest;
  formats::Sha256 memory_digest;
  std::uint64_t unit_bytes;
};
Result<std::uint64_t> store_as_layer(const CapturedUnits& units, const LinkedParent& parent,
                                     const Fd& dir, const Fd& memory);
Result<std::uint64_t> store_in_packs(const CapturedUnits& units, const LinkedParent& parent,
                                     const Fd& dir, const Fd& memory, const Packs& packs,
                                     const PackOptions& options);

}  // namespace volt::snapshot
