#include "vmm/guest_image.h"

#include <elf.h>

#include <cstring>
#include <optional>
#include <string>

namespace volt::vmm {
namespace {

constexpr std::uint64_t kLowestSegment = 0x10'0000;  // other VMMs keep their tables below
constexpr std::size_t kMaxProgramHeaders = 64;

std::unexpected<Error> bad(std::string what) {
  return fail(Code::kCorrupt, "guest image: " + std::move(what));
}

// [offset, offset + bytes) of the file, if it is all there.
std::optional<std::span<const std::byte>> slice(std::span<const std::byte> file,
                                                std::uint64_t offset, std::uint64_t bytes) {
  if (offset > file.size() || bytes > file.size() - offset) return std::nullopt;
  return file.subspan(offset, bytes);
}

template <typename T>
std::optional<T> read_at(std::span<const std::byte> file, std::uint64_t offset) {
  const auto bytes = slice(file, offset, sizeof(T));
  if (!bytes) return std::nullopt;
  T value;
  std::memcpy(&value, bytes->data(), sizeof value);
  return value;
}

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + 3) & ~std::uint64_t{3};
}

// Volt's note among those of one PT_NOTE segment.
Result<std::optional<guest_abi::Note>> find_note(std::span<const std::byte> notes) {
  std::uint64_t at = 0;
  while (const auto head = read_at<Elf64_Nhdr>(notes, at)) {
    at += sizeof *head;
    const auto name = slice(notes, at, head->n_namesz);
    at += padded(head->n_namesz);
    const auto body = slice(notes, at, head->n_descsz);
    if (!name || !body) return bad("a note runs past its segment");
    at += padded(head->n_descsz);
    const bool ours = head->n_namesz == sizeof guest_abi::kNoteName &&
                      std::memcmp(name->data(), guest_abi::kNoteName, name->size()) == 0 &&
                      head->n_type == guest_abi::kNoteType;
    if (!ours) continue;
    if (head->n_descsz != sizeof(guest_abi::Note)) {
      return bad("Volt note: " + std::to_string(head->n_descsz) + " bytes, not " +
                 std::to_string(sizeof(guest_abi::Note)));
    }
    return read_at<guest_abi::Note>(*body, 0);
  }
  return std::nullopt;
}

Result<> check_note(const guest_abi::Note& note) {
  if (note.abi != guest_abi::kVersion) {
    return fail(Code::kUnsupported, "guest image: Volt note: abi " + std::to_string(note.abi) +
                                        ", this build speaks " +
                                        std::to_string(guest_abi::kVersion));
  }
  if (note.reserved != 0 || note.reserved2 != 0) return bad("Volt note: reserved: not zero");
  if (note.gdt_limit > 0xFFFF || note.idt_limit > 0xFFFF) {
    return bad("Volt note: a descriptor table's limit: over 65535");
  }
  if (note.mutable_bytes > guest_abi::kMaxRamBytes ||
      note.mutable_base > guest_abi::kMaxRamBytes - note.mutable_bytes) {
    return bad("Volt note: mutable range: outside what a guest can have");
  }
  return {};
}

}  // namespace

Result<GuestImage> GuestImage::parse(std::span<const std::byte> file) {
  const auto head = read_at<Elf64_Ehdr>(file, 0);
  if (!head || std::memcmp(head->e_ident, ELFMAG, SELFMAG) != 0) return bad("not an ELF file");
  if (head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_machine != EM_X86_64) {
    return bad("not for x86-64");
  }
  if (head->e_phentsize != sizeof(Elf64_Phdr) || head->e_phnum > kMaxProgramHeaders) {
    return bad("program headers: wrong size or more than 64");
  }
  GuestImage image;
  image.file_ = file;
  std::optional<guest_abi::Note> note;
  for (std::uint64_t i = 0; i < head->e_phnum; ++i) {
    if (head->e_phoff > file.size()) return bad("program headers: past the end of the file");
    const auto entry = read_at<Elf64_Phdr>(file, head->e_phoff + i * sizeof(Elf64_Phdr));
    if (!entry) return bad("program headers: past the end of the file");
    const auto bytes = slice(file, entry->p_offset, entry->p_filesz);
    if (!bytes) return bad("segment " + std::to_string(i) + ": past the end of the file");
    if (entry->p_type == PT_NOTE && !note) note = VOLT_TRY(find_note(*bytes));
    if (entry->p_type != PT_LOAD || entry->p_memsz == 0) continue;
    if (entry->p_paddr < kLowestSegment || entry->p_filesz > entry->p_memsz) {
      return bad("segment " + std::to_string(i) + ": below 1 MiB or larger than its memory");
    }
    image.segments_.push_back({entry->p_paddr, entry->p_memsz, *bytes});
  }
  if (!note) return bad("no Volt note: not a micro guest");
  VOLT_TRY(check_note(*note));
  image.note_ = *note;
  return image;
}

Result<> GuestImage::load(const GuestMemory& memory) const {
  for (const Segment& segment : segments_) {
    VOLT_TRY_IN("guest image", memory.at(segment.address, segment.memory_bytes));
    VOLT_TRY(memory.write(segment.address, segment.bytes));
  }
  return {};
}

}  // namespace volt::vmm
