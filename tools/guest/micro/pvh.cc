#include "tools/guest/micro/pvh.h"

#include "tools/guest/micro/memory.h"
#include "vmm/guest_abi.h"

namespace volt::guest {
namespace {

constexpr std::uint32_t kRam = 1;
constexpr std::uint64_t kFirstMegabyte = 0x10'0000;

struct MapEntry {
  std::uint64_t address;
  std::uint64_t bytes;
  std::uint32_t type;
  std::uint32_t reserved;
};

// The end of the RAM that holds `address`; `address` itself if it is none.
std::uint64_t end_of_ram_at(const PvhStartInfo& info, std::uint64_t address) {
  // QEMU's q35 puts the map into page 0, which is not mapped: there, mem= has to say it.
  const bool has_map = info.version > 0 && info.memory_map >= guest_abi::kPageBytes;
  if (!has_map) return address;
  const auto* const map = at_address<const MapEntry>(info.memory_map);
  for (std::uint32_t i = 0; i < info.memory_map_entries; ++i) {
    const bool holds = map[i].address <= address && address - map[i].address < map[i].bytes;
    if (map[i].type == kRam && holds) return map[i].address + map[i].bytes;
  }
  return address;
}

}  // namespace

const char* command_line(const PvhStartInfo& info) {
  return info.command_line == 0 ? "" : at_address<const char>(info.command_line);
}

const char* find_option(const char* line, const char* name) {
  while (*line != '\0') {
    const char* at = line;
    const char* want = name;
    while (*want != '\0' && *at == *want) ++at, ++want;
    if (*want == '\0' && *at == '=') return at + 1;
    while (*line != '\0' && *line != ' ') ++line;
    while (*line == ' ') ++line;
  }
  return nullptr;
}

std::uint64_t number_option(const char* line, const char* name, std::uint64_t otherwise) {
  const char* at = find_option(line, name);
  if (at == nullptr) return otherwise;
  std::uint64_t value = 0;
  for (; *at >= '0' && *at <= '9'; ++at) value = value * 10 + static_cast<unsigned>(*at - '0');
  switch (*at) {
    case 'K':
      return value << 10;
    case 'M':
      return value << 20;
    case 'G':
      return value << 30;
    default:
      return value;
  }
}

std::uint64_t ram_bytes(const PvhStartInfo& info) {
  const std::uint64_t low = end_of_ram_at(info, kFirstMegabyte);
  if (low < guest_abi::kLowRamEnd) return low;
  const std::uint64_t high = end_of_ram_at(info, guest_abi::kHighRamBase);
  return guest_abi::kLowRamEnd + (high - guest_abi::kHighRamBase);
}

}  // namespace volt::guest
