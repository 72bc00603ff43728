#include "vmm/guest_image.h"

#include <optional>
#include <string>
#include <string_view>

#include "vmm/checked_slice.h"
#include "vmm/elf_file.h"

namespace volt::vmm {
namespace {

constexpr std::uint64_t kLowestSegment = 0x10'0000;  // other VMMs keep their tables below

std::unexpected<Error> bad(std::string what) {
  return fail(Code::kCorrupt, "guest image: " + std::move(what));
}

Result<std::optional<guest_abi::Note>> find_note(std::span<const std::byte> notes) {
  constexpr std::string_view kName(guest_abi::kNoteName, sizeof guest_abi::kNoteName);
  const auto body = VOLT_TRY(find_elf_note(notes, kName, guest_abi::kNoteType));
  if (!body) return std::nullopt;
  if (body->size() == sizeof(guest_abi::Note)) return read_at<guest_abi::Note>(*body, 0);
  return fail(Code::kCorrupt, "Volt note: " + std::to_string(body->size()) + " bytes, not " +
                                  std::to_string(sizeof(guest_abi::Note)));
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
  const ElfFile elf = VOLT_TRY_IN("guest image", parse_elf(file));
  GuestImage image;
  image.file_ = file;
  std::optional<guest_abi::Note> note;
  for (const ElfSegment& segment : elf.segments) {
    if (segment.is_note) {
      if (!note) note = VOLT_TRY_IN("guest image", find_note(segment.bytes));
    } else if (segment.address < kLowestSegment) {
      return bad(segment.name + ": below 1 MiB");
    } else {
      image.segments_.push_back({segment.address, segment.memory_bytes, segment.bytes});
    }
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
