// What a VMM that starts us by the PVH boot protocol says: command line and memory map.
#pragma once

#include <cstdint>

namespace volt::guest {

// hvm_start_info, as far as we read it (Xen: docs/misc/pvh.pandoc).
struct PvhStartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t module_count;
  std::uint64_t modules;
  std::uint64_t command_line;
  std::uint64_t rsdp;
  std::uint64_t memory_map;  // from version 1 on
  std::uint32_t memory_map_entries;
};

// The command line; empty if there is none.
const char* command_line(const PvhStartInfo& info);

// The value of `name=` among the space-separated words of `line`; null if it is not there.
const char* find_option(const char* line, const char* name);

// Decimal, with K, M or G behind it; `otherwise` if the option is not there.
std::uint64_t number_option(const char* line, const char* name, std::uint64_t otherwise);

// Bytes of RAM, counted as guest_abi::BootConfig does: from 0 to the hole, and from 4 GiB on. 1
// MiB, too little for any guest, if the memory map is not there or not to be read.
std::uint64_t ram_bytes(const PvhStartInfo& info);

}  // namespace volt::guest
