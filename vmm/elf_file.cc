#include "vmm/elf_file.h"

#include <elf.h>

#include <cstring>
#include <utility>

#include "vmm/checked_slice.h"

namespace volt::vmm {
namespace {

constexpr std::size_t kMaxProgramHeaders = 64;

std::unexpected<Error> bad_elf(std::string what) {
  return fail(Code::kCorrupt, std::move(what));
}

Result<> check_elf_head(const Elf64_Ehdr& head) {
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB ||
      head.e_machine != EM_X86_64) {
    return fail(Code::kUnsupported, "not for x86-64");
  }
  if (head.e_phentsize != sizeof(Elf64_Phdr) || head.e_phnum > kMaxProgramHeaders) {
    return bad_elf("program headers: wrong size or more than 64");
  }
  return {};
}

Result<> check_memory(const Elf64_Phdr& entry) {
  if (entry.p_filesz > entry.p_memsz) return bad_elf("larger than its memory");
  if (entry.p_memsz > ~std::uint64_t{0} - entry.p_paddr) return bad_elf("its end wraps around");
  return {};
}

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + 3) & ~std::uint64_t{3};
}

bool is_text(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() == text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

}  // namespace

bool is_elf(std::span<const std::byte> file) {
  return file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfFile> parse_elf(std::span<const std::byte> file) {
  const auto head = read_at<Elf64_Ehdr>(file, 0);
  if (!head || !is_elf(file)) return bad_elf("not an ELF file");
  VOLT_TRY(check_elf_head(*head));
  const auto table = slice(file, head->e_phoff, head->e_phnum * sizeof(Elf64_Phdr));
  if (!table) return bad_elf("program headers: past the end of the file");
  ElfFile elf = {.entry = head->e_entry, .segments = {}};
  for (std::size_t i = 0; i < head->e_phnum; ++i) {
    const Elf64_Phdr entry = *read_at<Elf64_Phdr>(*table, i * sizeof(Elf64_Phdr));
    const bool loaded = entry.p_type == PT_LOAD && entry.p_memsz != 0;
    if (!loaded && entry.p_type != PT_NOTE) continue;
    std::string name = "segment " + std::to_string(i);
    const auto bytes = slice(file, entry.p_offset, entry.p_filesz);
    if (!bytes) return bad_elf(name + ": past the end of the file");
    if (loaded) VOLT_TRY_IN(name, check_memory(entry));
    elf.segments.push_back({std::move(name), !loaded, entry.p_paddr, entry.p_memsz, *bytes});
  }
  return elf;
}

Result<std::optional<std::span<const std::byte>>> find_elf_note(std::span<const std::byte> notes,
                                                                std::string_view name,
                                                                std::uint32_t type) {
  std::uint64_t at = 0;
  while (const auto head = read_at<Elf64_Nhdr>(notes, at)) {
    at += sizeof *head;
    const auto its_name = slice(notes, at, head->n_namesz);
    at += padded(head->n_namesz);
    const auto body = slice(notes, at, head->n_descsz);
    if (!its_name || !body) return bad_elf("a note runs past its segment");
    at += padded(head->n_descsz);
    if (head->n_type == type && is_text(*its_name, name)) return *body;
  }
  return std::nullopt;
}

}  // namespace volt::vmm
