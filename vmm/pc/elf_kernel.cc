#include "vmm/pc/elf_kernel.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "vmm/checked_slice.h"
#include "vmm/elf_file.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

constexpr std::uint32_t kPvhEntryNote = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr char kPvhNoteName[] = "Xen";

std::unexpected<Error> bad_kernel(std::string what) {
  return fail(Code::kCorrupt, std::move(what));
}

// Where the notes of one segment say that PVH begins.
Result<std::optional<std::uint64_t>> find_pvh_entry(std::span<const std::byte> notes) {
  constexpr std::string_view kName(kPvhNoteName, sizeof kPvhNoteName);
  const auto body = VOLT_TRY(vmm::find_elf_note(notes, kName, kPvhEntryNote));
  if (!body) return std::nullopt;
  if (const auto wide = vmm::read_at<std::uint64_t>(*body, 0)) return *wide;
  if (const auto narrow = vmm::read_at<std::uint32_t>(*body, 0)) return *narrow;
  return bad_kernel("PVH note: " + std::to_string(body->size()) + " bytes, which is no address");
}

bool has_bytes_at(const ElfKernel& kernel, std::uint64_t address) {
  return std::ranges::any_of(kernel.segments, [address](const KernelSegment& segment) {
    return address >= segment.address && address - segment.address < segment.bytes.size();
  });
}

}  // namespace

Result<ElfKernel> parse_elf_kernel(std::span<const std::byte> file) {
  const vmm::ElfFile elf = VOLT_TRY(vmm::parse_elf(file));
  ElfKernel kernel;
  for (const vmm::ElfSegment& segment : elf.segments) {
    if (segment.is_note) {
      if (kernel.pvh_entry) continue;
      kernel.pvh_entry = VOLT_TRY_IN(segment.name, find_pvh_entry(segment.bytes));
    } else if (segment.address < kHighMemory) {
      return bad_kernel(segment.name + ": below 1 MiB");
    } else {
      kernel.segments.push_back({segment.address, segment.memory_bytes, segment.bytes});
    }
  }
  if (kernel.segments.empty()) return bad_kernel("program headers: nothing to load");
  kernel.entry = elf.entry;
  if (!has_bytes_at(kernel, kernel.entry)) return bad_kernel("entry: in no segment");
  if (kernel.pvh_entry && !has_bytes_at(kernel, *kernel.pvh_entry)) {
    return bad_kernel("PVH note: its entry is in no segment");
  }
  return kernel;
}

}  // namespace volt::pc
