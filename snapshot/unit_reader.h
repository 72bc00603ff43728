// Reads units of one snapshot wherever they are stored, each checked before it is given away.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "snapshot/opened.h"
#include "snapshot/unit_codec.h"

namespace volt::snapshot {

// For one thread at a time.
class UnitReader {
 public:
  // `snapshot` was opened with its whole index, and stays.
  explicit UnitReader(const OpenedSnapshot& snapshot) : UnitReader(snapshot, snapshot.index()) {}
  // Or its index was read later.
  UnitReader(const OpenedSnapshot& snapshot, const formats::MemoryIndex& index)
      : snapshot_(snapshot), index_(index) {}

  // The unit of the index's entry i, into a whole unit. kCorrupt names file, unit and place.
  Result<> read(std::uint64_t i, std::span<std::byte> into);
  // The same into a buffer of its own, which holds it until the next read.
  Result<std::span<const std::byte>> read(std::uint64_t i);
  // The same for one that is stored with these bytes, which may be `into` itself.
  Result<> accept(std::uint64_t i, std::span<const std::byte> stored, std::span<std::byte> into);

 private:
  const OpenedSnapshot& snapshot_;
  const formats::MemoryIndex& index_;
  UnitDecoder decoder_;
  std::vector<std::byte> stored_;
  std::vector<std::byte> unit_;
};

// Calls use(reader, i) for every entry of the index, on `threads` threads; the first error ends it.
Result<> for_each_unit(const OpenedSnapshot& snapshot, unsigned threads,
                       const std::function<Result<>(UnitReader&, std::uint64_t i)>& use);

// Where the bytes of entry i are, in which of the snapshot's files.
struct UnitPlace {
  const Fd* fd;
  const char* file;
  std::uint64_t offset;
  std::uint32_t stored_bytes;
};
Result<UnitPlace> place_of(const OpenedSnapshot& snapshot, const formats::MemoryIndex& index,
                           std::uint64_t i);

}  // namespace volt::snapshot
