#include "vmm/exit.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

namespace volt::vmm {
namespace {

struct Exit {
  Exit() { run->exit_reason = KVM_EXIT_UNKNOWN; }
  explicit Exit(std::uint32_t reason) { run->exit_reason = reason; }
  std::string text() const { return describe_exit(*run); }
  std::unique_ptr<kvm_run> run = std::make_unique<kvm_run>();
};

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

TEST(ExitTest, APortIsNamedWithItsDirectionAndWidth) {
  Exit exit(KVM_EXIT_IO);
  exit.run->io.port = 0x3F8;
  exit.run->io.size = 2;
  exit.run->io.direction = KVM_EXIT_IO_OUT;
  EXPECT_EQ(exit.text(), "it wrote port 0x3f8 (2 bytes), which is none of Volt's");
  exit.run->io.direction = KVM_EXIT_IO_IN;
  EXPECT_EQ(exit.text(), "it read port 0x3f8 (2 bytes), which is none of Volt's");
}

TEST(ExitTest, AnAddressWithoutMemoryIsNamed) {
  Exit exit(KVM_EXIT_MMIO);
  exit.run->mmio.phys_addr = 0x5000'0000;
  exit.run->mmio.len = 8;
  EXPECT_EQ(exit.text(), "it read 8 bytes at 0x50000000, where no memory is");
  exit.run->mmio.is_write = 1;
  EXPECT_EQ(exit.text(), "it wrote 8 bytes at 0x50000000, where no memory is");
}

TEST(ExitTest, HaltAndShutdownAreToldApart) {
  EXPECT_TRUE(contains(Exit(KVM_EXIT_HLT).text(), "halted"));
  EXPECT_TRUE(contains(Exit(KVM_EXIT_SHUTDOWN).text(), "triple fault"));
}

TEST(ExitTest, ARefusedEntryCarriesTheHardwareReason) {
  Exit exit(KVM_EXIT_FAIL_ENTRY);
  exit.run->fail_entry.hardware_entry_failure_reason = 0x8000'0021;
  EXPECT_TRUE(contains(exit.text(), "0x80000021")) << exit.text();
}

TEST(ExitTest, AnInternalErrorOfKvmSaysWhichOne) {
  Exit exit(KVM_EXIT_INTERNAL_ERROR);
  exit.run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  EXPECT_TRUE(contains(exit.text(), "cannot emulate")) << exit.text();
  exit.run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
  EXPECT_TRUE(contains(exit.text(), "internal error 3")) << exit.text();
}

TEST(ExitTest, UnhandledExitsAreNamedWithTheirNumber) {
  const struct {
    std::uint32_t reason;
    const char* text;
  } kExits[] = {
      {KVM_EXIT_EXCEPTION, ": 1, EXCEPTION"},
      {KVM_EXIT_HYPERCALL, ": 3, HYPERCALL"},
      {KVM_EXIT_DEBUG, ": 4, DEBUG"},
      {KVM_EXIT_IRQ_WINDOW_OPEN, ": 7, IRQ_WINDOW_OPEN"},
      {KVM_EXIT_NMI, ": 16, NMI"},
      {KVM_EXIT_SYSTEM_EVENT, ": 24, SYSTEM_EVENT"},
      {KVM_EXIT_X86_RDMSR, ": 29, X86_RDMSR"},
      {KVM_EXIT_X86_WRMSR, ": 30, X86_WRMSR"},
      {KVM_EXIT_X86_BUS_LOCK, ": 33, X86_BUS_LOCK"},
      {KVM_EXIT_NOTIFY, ": 37, NOTIFY"},
      {0, ": 0, without a name"},
      {12'345, ": 12345, without a name"},
      {UINT32_MAX, ": 4294967295, without a name"},
  };
  for (const auto& exit : kExits) {
    EXPECT_EQ(Exit(exit.reason).text(),
              std::string("an exit of KVM that Volt does not handle") + exit.text);
  }
}

TEST(ExitTest, ExceptionsHaveTheirArchitecturalNames) {
  EXPECT_STREQ(exception_name(0), "divide error");
  EXPECT_STREQ(exception_name(6), "invalid opcode");
  EXPECT_STREQ(exception_name(8), "double fault");
  EXPECT_STREQ(exception_name(12), "stack fault");
  EXPECT_STREQ(exception_name(13), "general protection");
  EXPECT_STREQ(exception_name(14), "page fault");
  EXPECT_STREQ(exception_name(16), "x87 error");
  EXPECT_STREQ(exception_name(21), "control protection");
}

TEST(ExitTest, AnyVectorAGuestMayClaimHasAName) {
  EXPECT_STREQ(exception_name(15), "reserved");
  EXPECT_STREQ(exception_name(22), "reserved");
  EXPECT_STREQ(exception_name(UINT32_MAX), "reserved");
}

TEST(ExitTest, RegistersAreAllThereWhateverTheyHold) {
  kvm_regs regs = {};
  regs.rip = regs.rsp = regs.rflags = regs.rax = regs.rbx = regs.rcx = regs.rdx = UINT64_MAX;
  regs.rsi = regs.rdi = regs.rbp = regs.r8 = regs.r9 = regs.r10 = regs.r11 = UINT64_MAX;
  regs.r12 = regs.r13 = regs.r14 = UINT64_MAX;
  regs.r15 = 0x1234;
  const std::string text = describe_registers(regs);
  EXPECT_TRUE(contains(text, "rip 0xffffffffffffffff rsp 0xffffffffffffffff")) << text;
  EXPECT_TRUE(text.ends_with("r15 0x1234")) << text;
}

}  // namespace
}  // namespace volt::vmm
