#include "vmm/pc/pvh.h"

#include <vector>

#include "vmm/pc/layout.h"

namespace volt::pc {

Result<> write_start_info(const vmm::GuestMemory& memory, std::span<const MapEntry> map,
                          std::uint64_t initrd, std::uint64_t initrd_bytes) {
  constexpr std::uint64_t kModules = kStartInfo + 64;
  constexpr std::uint64_t kMap = kModules + 64;
  std::vector<StartMapEntry> entries;
  for (const MapEntry& each : map) {
    entries.push_back({each.address, each.bytes, static_cast<std::uint32_t>(each.kind), 0});
  }
  const auto map_bytes = std::as_bytes(std::span(entries));
  if (map_bytes.size() > kZeroPage - kMap) {
    return fail(Code::kInvalid, "memory in too many pieces for PVH");
  }
  const StartModule module = {
      .address = initrd, .bytes = initrd_bytes, .command_line = 0, .reserved = 0};
  const StartInfo info = {.magic = kStartInfoMagic,
                          .version = 1,
                          .flags = 0,
                          .module_count = initrd_bytes == 0 ? 0u : 1u,
                          .modules = initrd_bytes == 0 ? 0 : kModules,
                          .command_line = kCommandLine,
                          .rsdp = kAcpi,
                          .map = kMap,
                          .map_entries = static_cast<std::uint32_t>(entries.size()),
                          .reserved = 0};
  VOLT_TRY(memory.write(kStartInfo, std::as_bytes(std::span(&info, 1))));
  VOLT_TRY(memory.write(kModules, std::as_bytes(std::span(&module, 1))));
  return memory.write(kMap, map_bytes);
}

}  // namespace volt::pc
