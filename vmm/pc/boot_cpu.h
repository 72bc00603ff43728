// How the first CPU begins, for each way into a kernel, and the tables in guest memory that it
// begins with.
#pragma once

#include <cstdint>

#include "vmm/guest_memory.h"
#include "vmm/kvm.h"

namespace volt::pc {

struct KernelBoot {
  kvm_regs regs;
  kvm_sregs sregs;
};

// Long mode, all below 4 GiB mapped to itself, RSI at the zero page.
Result<KernelBoot> enter_linux64(const vmm::GuestMemory& memory, std::uint64_t entry);
// 32-bit protected mode without paging, EBX at the start_info.
Result<KernelBoot> enter_pvh(const vmm::GuestMemory& memory, std::uint64_t entry);

}  // namespace volt::pc
