#include "vmm/micro_cpu.h"

namespace volt::vmm {
namespace {

constexpr std::uint64_t kCr0 = 0x8001'0033;       // PG WP NE ET MP PE
constexpr std::uint64_t kCr4 = 0x620;             // PAE OSFXSR OSXMMEXCPT: SSE, and no XSAVE
constexpr std::uint64_t kEfer = 0xD00;            // LME LMA NXE; SYSCALL stays off
constexpr std::uint64_t kApicBase = 0xFEE0'0900;  // as after reset

constexpr kvm_segment flat(std::uint16_t selector, std::uint8_t type, bool long_mode) {
  kvm_segment segment = {};
  segment.limit = 0xFFFF'FFFF;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.dpl = 3;
  segment.db = long_mode ? 0 : 1;
  segment.s = 1;
  segment.l = long_mode ? 1 : 0;
  segment.g = 1;
  return segment;
}

}  // namespace

kvm_sregs micro_sregs(const guest_abi::Note& note) {
  constexpr std::uint8_t kCode = 0xB;  // execute, read, accessed
  constexpr std::uint8_t kData = 0x3;  // read, write, accessed
  constexpr std::uint8_t kBusyTss = 0xB;
  kvm_sregs sregs = {};
  sregs.cs = flat(guest_abi::kUserCodeSelector, kCode, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
      flat(guest_abi::kUserDataSelector, kData, false);
  sregs.tr.base = note.tss_base;
  sregs.tr.limit = note.tss_limit;
  sregs.tr.selector = guest_abi::kTssSelector;
  sregs.tr.type = kBusyTss;
  sregs.tr.present = 1;
  sregs.ldt.unusable = 1;
  sregs.gdt.base = note.gdt_base;
  sregs.gdt.limit = static_cast<std::uint16_t>(note.gdt_limit);
  sregs.idt.base = note.idt_base;
  sregs.idt.limit = static_cast<std::uint16_t>(note.idt_limit);
  sregs.cr0 = kCr0;
  sregs.cr3 = note.cr3;
  sregs.cr4 = kCr4;
  sregs.efer = kEfer;
  sregs.apic_base = kApicBase;
  return sregs;
}

kvm_regs micro_regs(std::uint64_t entry, std::uint64_t stack_top, std::uint64_t rdi) {
  kvm_regs regs = {};
  regs.rip = entry;
  regs.rsp = stack_top;
  regs.rdi = rdi;
  regs.rflags = kEntryFlags;
  return regs;
}

}  // namespace volt::vmm
