#include "snapshot/memory_layout.h"

#include <algorithm>
#include <string>

#include "formats/hot_set.h"

namespace volt::snapshot {

std::uint64_t memory_bytes(const formats::v1::Memory& memory) {
  const auto& last = *memory.regions().rbegin();
  return last.file_offset() + last.size_bytes();
}

std::uint64_t guest_address(const formats::v1::Memory& memory, std::uint64_t file_offset) {
  const auto region = std::ranges::find_if(memory.regions(), [&](const auto& each) {
    return file_offset - each.file_offset() < each.size_bytes();
  });
  return region->guest_base() + (file_offset - region->file_offset());
}

std::optional<std::uint64_t> file_offset(const formats::v1::Memory& memory, std::uint64_t address) {
  for (const auto& region : memory.regions()) {
    const std::uint64_t offset = address - region.guest_base();
    if (offset < region.size_bytes()) return region.file_offset() + offset;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> data_offset(const formats::v1::Memory& memory, std::uint64_t page) {
  const auto offset = file_offset(memory, page * formats::kHotPageBytes);
  if (!offset) return std::nullopt;
  const bool data = std::ranges::any_of(memory.data(), [&](const auto& extent) {
    return *offset - extent.file_offset() < extent.size_bytes();
  });
  return data ? offset : std::nullopt;
}

Result<> check_agreement(const formats::v1::Memory& memory, const formats::MemoryIndex& index) {
  const std::uint64_t unit_bytes = index.unit_bytes();
  if (index.entry_count() * unit_bytes != memory.stored_bytes()) {
    return fail(Code::kCorrupt, "manifest: memory.stored_bytes: the index holds " +
                                    std::to_string(index.entry_count()) + " units");
  }
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const std::string where = "index: entry " + std::to_string(i) + ": ";
    if (entry.place > memory_bytes(memory) - unit_bytes || entry.place % unit_bytes != 0 ||
        guest_address(memory, entry.place) != entry.unit * unit_bytes) {
      return fail(Code::kCorrupt, where + "place: not where that unit belongs");
    }
    const bool in_extent = std::ranges::any_of(memory.data(), [&](const auto& data) {
      return entry.place - data.file_offset() < data.size_bytes();
    });
    if (!in_extent) return fail(Code::kCorrupt, where + "place: in no extent of the manifest");
  }
  return {};
}

}  // namespace volt::snapshot
