// The CPU a micro guest runs on: long mode, ring 3 from its first instruction, interrupts never.
#pragma once

#include <cstdint>

#include "vmm/guest_abi.h"
#include "vmm/kvm.h"

namespace volt::vmm {

// The flags a guest begins with. Ring-3 port I/O needs either IOPL 3 or the TSS bitmap; hosts
// differ in which one they look at, so a micro guest has both.
inline constexpr std::uint64_t kEntryFlags = 0x3002;

// The special registers that the guest's note asks for.
kvm_sregs micro_sregs(const guest_abi::Note& note);

// General registers at an entry: stack, RDI, everything else zero.
kvm_regs micro_regs(std::uint64_t entry, std::uint64_t stack_top, std::uint64_t rdi);

}  // namespace volt::vmm
