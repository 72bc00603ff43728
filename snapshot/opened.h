// A snapshot's files, opened and checked: what a restore, a verification and an inspection start
// from.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "formats/machine_state.h"
#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "snapshot/reference.h"
#include "snapshot/store.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

struct Verified {
  std::uint64_t units = 0;  // whose sums were right
  std::uint64_t bytes_read = 0;
};

// Every entry of an index, and the bytes they are read from where this alone holds them.
struct WholeIndex {
  std::vector<std::byte> bytes;
  std::unique_ptr<formats::MemoryIndex> own;
  const formats::MemoryIndex* index;
};

class OpenedSnapshot {
 public:
  enum class Index {
    kHead,   // enough to map memory; the whole of a small index is checked all the same
    kWhole,  // index() may be used; its blocks are checked when they are
  };
  // Checks the manifest, the state and the index's head, and that they belong together.
  static Result<OpenedSnapshot> open(const Store& store, const Reference& reference,
                                     Index index = Index::kWhole);

  const formats::Manifest& manifest() const { return manifest_; }
  const formats::MachineState& state() const { return state_; }
  const formats::MemoryIndex& index() const { return *index_; }
  // index() as long as this lives, whatever was opened: what is not held is read now, also when the
  // snapshot was removed meanwhile.
  Result<WholeIndex> whole_index() const;
  const Fd& memory() const { return memory_; }
  const formats::Sha256& digest() const { return digest_; }
  const Fd& directory() const { return dir_; }

  // Size of the memory file: all regions, holes included.
  std::uint64_t memory_bytes() const;
  // The guest-physical address behind an offset of the memory file, which must be inside it.
  std::uint64_t guest_address(std::uint64_t file_offset) const;

  // Reads unit `entry` into `into` and checks its sum; kCorrupt names file, unit and place.
  Result<> read_unit(const formats::IndexEntry& entry, std::span<std::byte> into) const;
  // Entries, extents and stored bytes say the same thing three times; they must agree.
  Result<> check_agreement() const { return check_agreement(*index_); }
  Result<> check_agreement(const formats::MemoryIndex& index) const;
  // What the index calls zero is zero in the memory file, which loader map shows to a guest.
  Result<> check_zeros(const formats::MemoryIndex& index) const;
  // That, every unit's sum, and that what the index calls zero is zero: loader map shows both to a
  // guest.
  Result<Verified> check_memory() const;

 private:
  OpenedSnapshot() = default;
  Result<> open_files(const Reference& reference, Index index);
  Result<> open_index(Index index);
  Result<> check_blocks() const;

  Fd dir_;
  Fd memory_;
  formats::Sha256 digest_ = {};
  formats::Manifest manifest_;
  formats::MachineState state_;
  std::vector<std::byte> index_bytes_;
  std::unique_ptr<formats::MemoryIndex> index_;  // reads index_bytes_
  Fd index_file_;                                // open where index_ is not
};

}  // namespace volt::snapshot
