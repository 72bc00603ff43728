// How guest memory lies in a raw memory file, as the manifest says, and whether the index agrees.
#pragma once

#include <cstdint>
#include <optional>

#include "formats/manifest.h"
#include "formats/memory_index.h"

namespace volt::snapshot {

// Size of the memory file: all regions, holes included.
std::uint64_t memory_bytes(const formats::v1::Memory& memory);
// The guest-physical address behind an offset of the memory file, which must be inside it.
std::uint64_t guest_address(const formats::v1::Memory& memory, std::uint64_t file_offset);

// The other way; nullopt where no region is.
std::optional<std::uint64_t> file_offset(const formats::v1::Memory& memory, std::uint64_t address);
// Where a page of data is in the memory file; nullopt where the manifest says that memory is zero.
std::optional<std::uint64_t> data_offset(const formats::v1::Memory& memory, std::uint64_t page);

// Entries, extents and stored bytes say the same thing three times; they must agree.
Result<> check_agreement(const formats::v1::Memory& memory, const formats::MemoryIndex& index);

}  // namespace volt::snapshot
