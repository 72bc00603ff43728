// What a vCPU's exit was, in words: for the exits Volt does not handle, and for crashes.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/guest_abi.h"
#include "vmm/kvm.h"

namespace volt::vmm {

// One phrase, e.g. "it read 8 bytes at 0x50000000, where no memory is".
std::string describe_exit(const kvm_run& run);

// "page fault" for 14.
const char* exception_name(std::uint32_t vector);

// "rip 0x.. rsp 0x.. rax 0x.. ...", for a crash report.
std::string describe_registers(const kvm_regs& regs);

}  // namespace volt::vmm
