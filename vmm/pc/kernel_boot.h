// Puts a kernel, its initial RAM disk and its command line into guest memory, and says with which
// registers the first CPU begins.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "vmm/guest_memory.h"
#include "vmm/pc/boot_cpu.h"
#include "vmm/pc/kernel_image.h"

namespace volt::pc {

struct KernelInput {
  std::span<const std::byte> initrd;  // may be empty
  std::string command_line;
};

// Into RAM that is still zero. The kernel is told that ACPI's root pointer is at kAcpi; its tables
// are the caller's. kInvalid, with what to do about it, for what does not fit.
Result<KernelBoot> load_kernel(const KernelImage& image, const KernelInput& input,
                               const vmm::GuestMemory& memory);

}  // namespace volt::pc
