// Guest memory into a sparse file and its index: finds what is not zero, sums it, writes it.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "vmm/guest_memory.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

// A power of two from 4 KiB to 2 MiB, or kInvalid.
Result<> check_unit_bytes(std::uint64_t unit_bytes);

// Writes every unit of `memory` that is not zero to `file`, region after region. Entries ascend by
// unit; `place` is the file offset. Regions that are not whole units are kInvalid.
Result<std::vector<formats::IndexEntry>> write_memory(const vmm::GuestMemory& memory,
                                                      std::uint64_t unit_bytes, const Fd& file);

// Regions, extents and sizes, as the manifest describes what write_memory() wrote.
formats::v1::Memory describe_memory(const vmm::GuestMemory& memory, std::uint64_t unit_bytes,
                                    std::span<const formats::IndexEntry> entries);

}  // namespace volt::snapshot
