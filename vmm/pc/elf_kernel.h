// A kernel's ELF file (vmlinux): what goes where in physical memory, and where it can be entered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/os/error.h"

namespace volt::pc {

struct KernelSegment {
  std::uint64_t address;
  std::uint64_t memory_bytes;  // at least bytes.size(); the rest is zero
  std::span<const std::byte> bytes;
  std::uint64_t end() const { return address + memory_bytes; }
};

struct ElfKernel {
  std::vector<KernelSegment> segments;     // views of the file
  std::uint64_t entry = 0;                 // with bytes of the file behind it
  std::optional<std::uint64_t> pvh_entry;  // the same
};

Result<ElfKernel> parse_elf_kernel(std::span<const std::byte> file);

}  // namespace volt::pc
