#include "vmm/pc/kernel_boot.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "vmm/pc/layout.h"
#include "vmm/pc/memory_map.h"
#include "vmm/pc/pvh.h"

namespace volt::pc {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint8_t kUnknownLoader = 0xFF;
static_assert(sizeof(boot_params) == kPage);

std::string range_text(std::uint64_t begin, std::uint64_t end) {
  char text[64];
  std::snprintf(text, sizeof text, "[0x%llx, 0x%llx)", static_cast<unsigned long long>(begin),
                static_cast<unsigned long long>(end));
  return text;
}

// Where the RAM that begins at 0 ends.
std::uint64_t low_end(const vmm::GuestMemory& memory) {
  return memory.regions().empty() ? 0 : memory.regions()[0].host.size();
}

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// Without its pages of zeros: the memory is zero already. They are a third of a distribution's
// kernel.
Result<> load_bytes(std::uint64_t address, std::span<const std::byte> bytes,
                    const vmm::GuestMemory& memory) {
  std::uint64_t begin = 0;  // of what is to be written next
  for (std::uint64_t at = 0; at < bytes.size(); at += kPage) {
    const std::uint64_t end = std::min<std::uint64_t>(at + kPage, bytes.size());
    if (!is_zero(bytes.subspan(at, end - at))) continue;
    if (begin < at) VOLT_TRY(memory.write(address + begin, bytes.subspan(begin, at - begin)));
    begin = end;
  }
  if (begin == bytes.size()) return {};
  return memory.write(address + begin, bytes.subspan(begin));
}

Result<> load_segments(const KernelImage& image, const vmm::GuestMemory& memory) {
  if (image.end() > low_end(memory)) {
    return fail(Code::kInvalid, "the kernel is loaded to " +
                                    range_text(image.start(), image.end()) +
                                    ", and the guest's memory ends at " +
                                    range_text(0, low_end(memory)) + "; give it more (--memory)");
  }
  for (const KernelSegment& segment : image.segments()) {
    VOLT_TRY(load_bytes(segment.address, segment.bytes, memory));
  }
  return {};
}

// As high as the kernel can reach, so that it is out of the way of whatever unpacks or moves. 0 if
// there is none.
Result<std::uint64_t> load_initrd(const KernelImage& image, std::span<const std::byte> initrd,
                                  const vmm::GuestMemory& memory) {
  if (initrd.empty()) return 0;
  const std::uint64_t top = std::min(low_end(memory), image.initrd_last() + 1);
  const std::uint64_t bottom = (image.end() + kPage - 1) / kPage * kPage;
  const std::uint64_t address = initrd.size() > top ? 0 : (top - initrd.size()) / kPage * kPage;
  if (address < bottom) {
    const bool needs_memory = top == low_end(memory);
    return fail(Code::kInvalid,
                "the initial RAM disk's " + std::to_string(initrd.size()) +
                    " bytes do not fit into " + range_text(bottom, std::max(bottom, top)) +
                    ", from the kernel's end to " +
                    (needs_memory ? "that of the guest's memory; give it more (--memory)"
                                  : "the last address this kernel reaches; make it smaller"));
  }
  VOLT_TRY(memory.write(address, initrd));
  return address;
}

Result<> load_command_line(const KernelImage& image, const std::string& line,
                           const vmm::GuestMemory& memory) {
  const std::uint64_t most = std::min(image.command_line_most(), kCommandLineBytes - 1);
  if (line.size() > most) {
    return fail(Code::kInvalid, "the kernel's command line has " + std::to_string(line.size()) +
                                    " bytes; this kernel takes " + std::to_string(most));
  }
  if (line.find('\0') != line.npos) {
    return fail(Code::kInvalid, "the kernel's command line has a zero byte in it");
  }
  return memory.write(kCommandLine, std::as_bytes(std::span(line.c_str(), line.size() + 1)));
}

// The header as the kernel's file has it, or what a loader would have found in it.
void start_header(const KernelImage& image, boot_params& zero_page) {
  const std::span<const std::byte> own = image.setup_header();
  if (!own.empty()) {
    const auto page = std::as_writable_bytes(std::span(&zero_page, 1));
    std::ranges::copy(own, page.subspan(offsetof(boot_params, hdr)).begin());
    return;
  }
  zero_page.hdr.boot_flag = 0xAA55;
  zero_page.hdr.header = 0x5372'6448;  // HdrS
  zero_page.hdr.version = 0x20F;
  zero_page.hdr.kernel_alignment = 2 << 20;
  zero_page.hdr.cmdline_size = static_cast<std::uint32_t>(image.command_line_most());
}

Result<> write_zero_page(const KernelImage& image, std::span<const MapEntry> map,
                         std::uint64_t initrd, std::uint64_t initrd_bytes,
                         const vmm::GuestMemory& memory) {
  boot_params zero_page = {};
  start_header(image, zero_page);
  zero_page.hdr.type_of_loader = kUnknownLoader;
  // Whoever places the kernel at random says so himself, later.
  zero_page.hdr.loadflags =
      static_cast<std::uint8_t>((zero_page.hdr.loadflags | LOADED_HIGH) & ~KASLR_FLAG);
  // RAM disks end below 4 GiB: memory has its hole there.
  zero_page.hdr.ramdisk_image = static_cast<std::uint32_t>(initrd);
  zero_page.hdr.ramdisk_size = static_cast<std::uint32_t>(initrd_bytes);
  zero_page.hdr.cmd_line_ptr = static_cast<std::uint32_t>(kCommandLine);
  zero_page.acpi_rsdp_addr = kAcpi;
  if (map.size() > E820_MAX_ENTRIES_ZEROPAGE) {
    return fail(Code::kInvalid, "memory in too many pieces for a zero page");
  }
  for (const MapEntry& each : map) {
    zero_page.e820_table[zero_page.e820_entries++] = {
        .addr = each.address, .size = each.bytes, .type = static_cast<std::uint32_t>(each.kind)};
  }
  return memory.write(kZeroPage, std::as_bytes(std::span(&zero_page, 1)));
}

}  // namespace

Result<KernelBoot> load_kernel(const KernelImage& image, const KernelInput& input,
                               const vmm::GuestMemory& memory) {
  const std::vector<MapEntry> map = VOLT_TRY(memory_map(memory));
  VOLT_TRY(load_segments(image, memory));
  VOLT_TRY(load_command_line(image, input.command_line, memory));
  const std::uint64_t initrd = VOLT_TRY(load_initrd(image, input.initrd, memory));
  if (image.entry() == Entry::kPvh) {
    VOLT_TRY(write_start_info(memory, map, initrd, input.initrd.size()));
    return enter_pvh(memory, image.entry_address());
  }
  VOLT_TRY(write_zero_page(image, map, initrd, input.initrd.size(), memory));
  return enter_linux64(memory, image.entry_address());
}

}  // namespace volt::pc
