// PVH's start_info: what Xen's HVM boot ABI, which Linux also speaks under KVM, hands a kernel.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/guest_memory.h"
#include "vmm/pc/memory_map.h"

namespace volt::pc {

struct StartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t module_count;
  std::uint64_t modules;
  std::uint64_t command_line;
  std::uint64_t rsdp;
  std::uint64_t map;  // from here on: version 1
  std::uint32_t map_entries;
  std::uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct StartModule {
  std::uint64_t address;
  std::uint64_t bytes;
  std::uint64_t command_line;
  std::uint64_t reserved;
};
static_assert(sizeof(StartModule) == 32);

struct StartMapEntry {
  std::uint64_t address;
  std::uint64_t bytes;
  std::uint32_t kind;
  std::uint32_t reserved;
};
static_assert(sizeof(StartMapEntry) == 24);

inline constexpr std::uint32_t kStartInfoMagic = 0x336E'C578;

// At kStartInfo, with the initial RAM disk as its one module.
Result<> write_start_info(const vmm::GuestMemory& memory, std::span<const MapEntry> map,
                          std::uint64_t initrd, std::uint64_t initrd_bytes);

}  // namespace volt::pc
