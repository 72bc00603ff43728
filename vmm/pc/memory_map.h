// What a guest is told of its physical memory: e820's list, which PVH has in a form of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/guest_memory.h"

namespace volt::pc {

enum class MemoryKind : std::uint32_t { kRam = 1, kReserved = 2 };  // as e820 and PVH number them

struct MapEntry {
  std::uint64_t address;
  std::uint64_t bytes;
  MemoryKind kind;
  bool operator==(const MapEntry&) const = default;
};

// Ascending. What is in no entry is not there: devices and their hole. kInvalid without RAM above 1
// MiB.
Result<std::vector<MapEntry>> memory_map(const vmm::GuestMemory& memory);

}  // namespace volt::pc
