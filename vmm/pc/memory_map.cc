#include "vmm/pc/memory_map.h"

#include "vmm/guest_abi.h"
#include "vmm/pc/layout.h"

namespace volt::pc {

Result<std::vector<MapEntry>> memory_map(const vmm::GuestMemory& memory) {
  std::vector<MapEntry> map = {{0, kLowMemoryEnd, MemoryKind::kRam},
                               {kAcpi, kAcpiBytes, MemoryKind::kReserved}};
  bool has_high = false;
  for (const vmm::GuestMemory::Region& region : memory.regions()) {
    const std::uint64_t end = region.guest_base + region.host.size();
    if (region.guest_base == 0 && end > kHighMemory) {
      map.push_back({kHighMemory, end - kHighMemory, MemoryKind::kRam});
      has_high = true;
      continue;
    }
    // A device's memory, in the hole, is nothing to allocate from.
    const bool in_hole = region.guest_base < guest_abi::kHighRamBase;
    map.push_back({region.guest_base, region.host.size(),
                   in_hole ? MemoryKind::kReserved : MemoryKind::kRam});
  }
  if (!has_high) return fail(Code::kInvalid, "a guest needs memory above 1 MiB (--memory)");
  return map;
}

}  // namespace volt::pc
