// A Linux kernel's file (bzImage or vmlinux): which bytes go where, and where the first CPU begins.
// The file is treated as hostile: every offset and length in it is checked before use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/mapping.h"
#include "vmm/pc/elf_kernel.h"

namespace volt::pc {

// The ways into a kernel; see README.md beside this file.
enum class Entry {
  kLinux64,  // unpacked by us, entered in long mode with a zero page
  kPvh,      // unpacked by us, entered in 32-bit mode with a start_info
  kBzImage,  // as it is: it unpacks itself, and chooses its own place (KASLR)
};

class KernelImage {
 public:
  // `file` must outlive the image; what is unpacked is the image's own.
  // kUnsupported: a kernel, but not one for this `entry`.
  static Result<KernelImage> parse(std::span<const std::byte> file, Entry entry = Entry::kLinux64);

  Entry entry() const { return entry_; }
  std::uint64_t entry_address() const { return entry_address_; }
  const std::vector<KernelSegment>& segments() const { return segments_; }
  // All segments are in [start(), end()).
  std::uint64_t start() const;
  std::uint64_t end() const;

  // "6.1.0-56-cloud-amd64", or nothing if the file does not say.
  const std::string& version() const { return version_; }

  // What goes into the zero page at 0x1F1; nothing if the file has none (vmlinux).
  std::span<const std::byte> setup_header() const { return setup_header_; }
  // The last address that the kernel reaches for an initial RAM disk.
  std::uint64_t initrd_last() const { return initrd_last_; }
  // The longest command line, without the zero byte behind it.
  std::uint64_t command_line_most() const { return command_line_most_; }

 private:
  explicit KernelImage(Entry entry) : entry_(entry) {}
  Result<> take_elf(std::span<const std::byte> elf);
  Result<> take_bz_image(std::span<const std::byte> file);

  Entry entry_;
  std::uint64_t entry_address_ = 0;
  std::vector<KernelSegment> segments_;
  std::optional<Mapping> unpacked_;
  std::span<const std::byte> setup_header_;
  std::string version_;
  std::uint64_t initrd_last_ = 0x7FFF'FFFF;
  std::uint64_t command_line_most_ = 2047;
};

}  // namespace volt::pc
