#include "vmm/pc/elf_kernel.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "vmm/pc/checked_slice.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

constexpr std::size_t kMaxProgramHeaders = 64;
constexpr std::uint32_t kPvhEntryNote = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr char kPvhNoteName[] = "Xen";

std::unexpected<Error> bad_elf(std::string what) {
  return fail(Code::kCorrupt, std::move(what));
}

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + 3) & ~std::uint64_t{3};
}

// Where the notes of one PT_NOTE segment say that PVH begins.
Result<std::optional<std::uint64_t>> find_pvh_entry(std::span<const std::byte> notes) {
  std::uint64_t at = 0;
  while (const auto head = read_at<Elf64_Nhdr>(notes, at)) {
    at += sizeof *head;
    const auto name = slice(notes, at, head->n_namesz);
    at += padded(head->n_namesz);
    const auto body = slice(notes, at, head->n_descsz);
    if (!name || !body) return bad_elf("a note runs past its segment");
    at += padded(head->n_descsz);
    const bool pvh = head->n_type == kPvhEntryNote && name->size() == sizeof kPvhNoteName &&
                     std::memcmp(name->data(), kPvhNoteName, name->size()) == 0;
    if (!pvh) continue;
    if (const auto wide = read_at<std::uint64_t>(*body, 0)) return *wide;
    if (const auto narrow = read_at<std::uint32_t>(*body, 0)) return *narrow;
    return bad_elf("PVH note: " + std::to_string(body->size()) + " bytes, which is no address");
  }
  return std::nullopt;
}

Result<KernelSegment> segment_of(const Elf64_Phdr& head, std::span<const std::byte> bytes) {
  if (head.p_filesz > head.p_memsz) return bad_elf("larger than its memory");
  if (head.p_paddr < kHighMemory) return bad_elf("below 1 MiB");
  if (head.p_memsz > ~std::uint64_t{0} - head.p_paddr) return bad_elf("its end wraps around");
  return KernelSegment{head.p_paddr, head.p_memsz, bytes};
}

bool has_bytes_at(const ElfKernel& kernel, std::uint64_t address) {
  return std::ranges::any_of(kernel.segments, [address](const KernelSegment& segment) {
    return address >= segment.address && address - segment.address < segment.bytes.size();
  });
}

Result<> check_head(const Elf64_Ehdr& head) {
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB ||
      head.e_machine != EM_X86_64) {
    return fail(Code::kUnsupported, "not a kernel for x86-64");
  }
  if (head.e_phentsize != sizeof(Elf64_Phdr) || head.e_phnum > kMaxProgramHeaders) {
    return bad_elf("program headers: wrong size or more than 64");
  }
  return {};
}

}  // namespace

bool is_elf(std::span<const std::byte> file) {
  return file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfKernel> parse_elf_kernel(std::span<const std::byte> file) {
  const auto head = read_at<Elf64_Ehdr>(file, 0);
  if (!head || !is_elf(file)) return bad_elf("not an ELF file");
  VOLT_TRY(check_head(*head));
  const auto table = slice(file, head->e_phoff, head->e_phnum * sizeof(Elf64_Phdr));
  if (!table) return bad_elf("program headers: past the end of the file");
  ElfKernel kernel;
  for (std::size_t i = 0; i < head->e_phnum; ++i) {
    const Elf64_Phdr entry = *read_at<Elf64_Phdr>(*table, i * sizeof(Elf64_Phdr));
    const bool loaded = entry.p_type == PT_LOAD && entry.p_memsz != 0;
    if (!loaded && entry.p_type != PT_NOTE) continue;
    const std::string name = "segment " + std::to_string(i);
    const auto bytes = slice(file, entry.p_offset, entry.p_filesz);
    if (!bytes) return bad_elf(name + ": past the end of the file");
    if (loaded) {
      kernel.segments.push_back(VOLT_TRY_IN(name, segment_of(entry, *bytes)));
    } else if (!kernel.pvh_entry) {
      kernel.pvh_entry = VOLT_TRY_IN(name, find_pvh_entry(*bytes));
    }
  }
  if (kernel.segments.empty()) return bad_elf("program headers: nothing to load");
  kernel.entry = head->e_entry;
  if (!has_bytes_at(kernel, kernel.entry)) return bad_elf("entry: in no segment");
  if (kernel.pvh_entry && !has_bytes_at(kernel, *kernel.pvh_entry)) {
    return bad_elf("PVH note: its entry is in no segment");
  }
  return kernel;
}

}  // namespace volt::pc
