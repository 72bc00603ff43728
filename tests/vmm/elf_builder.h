// Small micro-guest ELF files, right unless a test says otherwise.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "vmm/guest_abi.h"

namespace volt::vmm {

struct ElfParts {
  Elf64_Ehdr head;
  Elf64_Phdr text;
  Elf64_Phdr notes;
  char unused[4];  // so that the note is aligned and its parts touch
  Elf64_Nhdr note_head;
  char note_name[8];
  guest_abi::Note note;
  std::byte code[16];
};

static_assert(offsetof(ElfParts, note) - offsetof(ElfParts, note_head) == 20);

// Of a program with two program headers at `headers`.
inline Elf64_Ehdr good_elf_head(std::uint64_t headers, std::uint64_t entry) {
  Elf64_Ehdr head = {};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_ident[EI_VERSION] = EV_CURRENT;
  head.e_type = ET_EXEC;
  head.e_machine = EM_X86_64;
  head.e_entry = entry;
  head.e_phoff = headers;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 2;
  return head;
}

inline ElfParts good_elf() {
  ElfParts parts = {};
  parts.head = good_elf_head(offsetof(ElfParts, text), 0);
  parts.text.p_type = PT_LOAD;
  parts.text.p_offset = offsetof(ElfParts, code);
  parts.text.p_paddr = 0x10'0000;
  parts.text.p_filesz = sizeof parts.code;
  parts.text.p_memsz = 0x1000;
  parts.notes.p_type = PT_NOTE;
  parts.notes.p_offset = offsetof(ElfParts, note_head);
  parts.notes.p_filesz = offsetof(ElfParts, code) - offsetof(ElfParts, note_head);
  parts.note_head = {.n_namesz = sizeof guest_abi::kNoteName,
                     .n_descsz = sizeof(guest_abi::Note),
                     .n_type = guest_abi::kNoteType};
  std::memcpy(parts.note_name, guest_abi::kNoteName, sizeof guest_abi::kNoteName);
  parts.note = {.abi = guest_abi::kVersion, .entry = 0x10'0000, .min_ram_bytes = 0x20'0000};
  for (std::byte& each : parts.code) each = std::byte{0xC3};
  return parts;
}

inline std::vector<std::byte> bytes_of(const ElfParts& parts) {
  const auto bytes = std::as_bytes(std::span(&parts, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace volt::vmm
