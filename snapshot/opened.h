// A snapshot's files, opened and checked: what a restore, a verification and an inspection start
// from.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/machine_state.h"
#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "formats/unit_table.h"
#include "snapshot/file_view.h"
#include "snapshot/memory_layout.h"
#include "snapshot/reference.h"
#include "snapshot/store.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

// The name, in a snapshot's directory, of a file that its unit table calls a container.
std::string container_file_name(const formats::Container& container);

// Every entry of an index, and the bytes they are read from where this alone holds them.
struct WholeIndex {
  FileView bytes;
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

  // One whose files are elsewhere: what may be used is manifest(), state(), digest() and what
  // follows from them. Checked the same.
  static Result<OpenedSnapshot> described(std::span<const std::byte> manifest,
                                          std::span<const std::byte> state);
  // The bytes that a description is made of.
  Result<std::array<std::vector<std::byte>, 2>> documents() const;

  const formats::Manifest& manifest() const { return manifest_; }
  const formats::MachineState& state() const { return state_; }
  const formats::MemoryIndex& index() const { return *index_; }
  // How its memory is stored is not part of what it is: a `memory` file that can be mapped, or
  // units in packs and layers. Only one of the two is there.
  bool is_raw() const { return memory_.valid(); }
  // index() as long as this lives, whatever was opened: what is not held is read now, also when the
  // snapshot was removed meanwhile.
  Result<WholeIndex> whole_index() const;
  const Fd& memory() const { return memory_; }
  struct Container {
    Fd file;
    std::string name;
  };
  const formats::UnitTable& units() const { return *units_; }
  const std::vector<Container>& containers() const { return containers_; }
  const formats::Sha256& digest() const { return digest_; }
  const Fd& directory() const { return dir_; }

  // Size of the memory file: all regions, holes included.
  std::uint64_t memory_bytes() const { return snapshot::memory_bytes(manifest_.memory()); }
  // The guest-physical address behind an offset of the memory file, which must be inside it.
  std::uint64_t guest_address(std::uint64_t file_offset) const {
    return snapshot::guest_address(manifest_.memory(), file_offset);
  }

  Result<> check_agreement() const {
    return snapshot::check_agreement(manifest_.memory(), *index_);
  }

 private:
  OpenedSnapshot() = default;
  Result<> open_files(const Reference& reference, Index index);
  Result<> take_manifest(std::span<const std::byte> manifest);
  Result<> take_state(std::span<const std::byte> state);
  Result<> open_index(Index index);
  Result<> check_blocks() const;
  Result<> open_memory();
  Result<> open_units(const Fd& file);

  Fd dir_;
  Fd memory_;
  formats::Sha256 digest_ = {};
  formats::Manifest manifest_;
  formats::MachineState state_;
  FileView index_bytes_;
  std::unique_ptr<formats::MemoryIndex> index_;  // reads index_bytes_
  FileView unit_bytes_;
  std::unique_ptr<formats::UnitTable> units_;  // reads unit_bytes_; null if raw
  std::vector<Container> containers_;
  Fd index_file_;  // open where index_ is not
};

}  // namespace volt::snapshot
