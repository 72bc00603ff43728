// What a vCPU's exit was, in words: for the exits Volt does not handle, and for crashes.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/guest_abi.h"
#include "vmm/kvm.h"

namespace volt::vmm {

// One phrase, e.g. "it read 8 bytes at 0x50000000, where no memory is".
std::string describe_exit(const kvm_run& run);

// What a failed KVM_RUN means: EFAULT is a page of guest memory that cannot be had (kPageLost).
Error run_error(Error error);

// "page fault" for 14.
const char* exception_name(std::uint32_t vector);

// "rip 0x.. rsp 0x.. rax 0x.. ...", for a crash report.
std::string describe_registers(const kvm_regs& regs);

}  // namespace volt::vmm
