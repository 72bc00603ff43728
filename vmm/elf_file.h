// ELF files that may lie about themselves: the segments of one for x86-64, each with its bytes, and
// the notes in one of them. Every offset and length is checked here; views are into the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"

namespace volt::vmm {

struct ElfSegment {
  std::string name;  // for errors: its place in the table
  bool is_note;      // else it is memory
  std::uint64_t address;
  std::uint64_t memory_bytes;  // at least bytes.size(), at least 1, and the end does not wrap
  std::span<const std::byte> bytes;
};

struct ElfFile {
  std::uint64_t entry;
  std::vector<ElfSegment> segments;  // PT_LOAD with memory, and PT_NOTE
};

bool is_elf(std::span<const std::byte> file);
Result<ElfFile> parse_elf(std::span<const std::byte> file);

// The first note of this name (with its zero) and type, if there is one.
Result<std::optional<std::span<const std::byte>>> find_elf_note(std::span<const std::byte> notes,
                                                                std::string_view name,
                                                                std::uint32_t type);

}  // namespace volt::vmm
