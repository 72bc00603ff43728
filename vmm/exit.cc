#include "vmm/exit.h"

#include <cerrno>
#include <cstdio>
#include <iterator>

namespace volt::vmm {
namespace {

using ull = unsigned long long;

const char* exit_name(std::uint32_t reason) {
  switch (reason) {
    case KVM_EXIT_EXCEPTION:
      return "EXCEPTION";
    case KVM_EXIT_HYPERCALL:
      return "HYPERCALL";
    case KVM_EXIT_DEBUG:
      return "DEBUG";
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return "IRQ_WINDOW_OPEN";
    case KVM_EXIT_NMI:
      return "NMI";
    case KVM_EXIT_SYSTEM_EVENT:
      return "SYSTEM_EVENT";
    case KVM_EXIT_X86_RDMSR:
      return "X86_RDMSR";
    case KVM_EXIT_X86_WRMSR:
      return "X86_WRMSR";
    case KVM_EXIT_X86_BUS_LOCK:
      return "X86_BUS_LOCK";
    case KVM_EXIT_NOTIFY:
      return "NOTIFY";
    default:
      return "without a name";
  }
}

template <typename... Arguments>
std::string text(const char* format, Arguments... arguments) {
  char buffer[160];
  std::snprintf(buffer, sizeof buffer, format, arguments...);
  return buffer;
}

}  // namespace

std::string describe_exit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return text("it %s port 0x%x (%u bytes), which is none of Volt's",
                  run.io.direction == KVM_EXIT_IO_OUT ? "wrote" : "read", unsigned{run.io.port},
                  unsigned{run.io.size});
    case KVM_EXIT_MMIO:
      return text("it %s %u bytes at 0x%llx, where no memory is",
                  run.mmio.is_write != 0 ? "wrote" : "read", run.mmio.len, ull{run.mmio.phys_addr});
    case KVM_EXIT_HLT:
      return "it halted, and nothing can wake it";
    case KVM_EXIT_SHUTDOWN:
      return "it shut down (a triple fault)";
    case KVM_EXIT_FAIL_ENTRY:
      return text("the CPU refused its state (hardware reason 0x%llx)",
                  ull{run.fail_entry.hardware_entry_failure_reason});
    case KVM_EXIT_INTERNAL_ERROR:
      return run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                 ? "it ran an instruction that this host's KVM cannot emulate"
                 : text("KVM gave up on it (internal error %u)", run.internal.suberror);
    default:
      return text("an exit of KVM that Volt does not handle: %u, %s", run.exit_reason,
                  exit_name(run.exit_reason));
  }
}

Error run_error(Error error) {
  if (error.sys_errno != EFAULT) return error;
  return {Code::kPageLost, 0, "a page of guest memory that the guest needs cannot be had"};
}

const char* exception_name(std::uint32_t vector) {
  static constexpr const char* kNames[] = {"divide error",
                                           "debug",
                                           "NMI",
                                           "breakpoint",
                                           "overflow",
                                           "bound range",
                                           "invalid opcode",
                                           "no FPU",
                                           "double fault",
                                           "FPU overrun",
                                           "invalid TSS",
                                           "segment not present",
                                           "stack fault",
                                           "general protection",
                                           "page fault",
                                           "reserved",
                                           "x87 error",
                                           "alignment check",
                                           "machine check",
                                           "SIMD error",
                                           "virtualization",
                                           "control protection"};
  return vector < std::size(kNames) ? kNames[vector] : "reserved";
}

std::string describe_registers(const kvm_regs& r) {
  char buffer[640];
  std::snprintf(buffer, sizeof buffer,
                "rip 0x%llx rsp 0x%llx rflags 0x%llx rax 0x%llx rbx 0x%llx rcx 0x%llx rdx 0x%llx "
                "rsi 0x%llx rdi 0x%llx rbp 0x%llx r8 0x%llx r9 0x%llx r10 0x%llx r11 0x%llx "
                "r12 0x%llx r13 0x%llx r14 0x%llx r15 0x%llx",
                r.rip, r.rsp, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9,
                r.r10, r.r11, r.r12, r.r13, r.r14, r.r15);
  return buffer;
}

}  // namespace volt::vmm
