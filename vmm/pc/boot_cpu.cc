#include "vmm/pc/boot_cpu.h"

#include <array>

#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

// Selectors that Linux's boot protocol prescribes; PVH asks for none in particular.
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTssSelector = 0x20;
constexpr std::uint8_t kCode = 0xB;     // execute, read, accessed
constexpr std::uint8_t kData = 0x3;     // read, write, accessed
constexpr std::uint8_t kBusyTss = 0xB;  // hosts without it refuse to enter a guest

constexpr std::uint64_t kFlags = 0x2;             // interrupts are off
constexpr std::uint64_t kApicBase = 0xFEE0'0900;  // as after reset
constexpr std::uint64_t kCr0Protected = 0x11;     // ET PE
constexpr std::uint64_t kCr0Paging = std::uint64_t{1} << 31;
constexpr std::uint64_t kCr4Pae = 0x20;
constexpr std::uint64_t kEferLongMode = 0x500;  // LMA LME

constexpr std::size_t kEntriesPerTable = 512;
constexpr std::uint64_t kTableBytes = 4096;
constexpr std::uint64_t kLargePage = 2 << 20;
constexpr std::uint64_t kPresentWritable = 0x3;
constexpr std::uint64_t kLarge = 0x80;
constexpr std::uint64_t kTables = (kPageTablesEnd - kPageTables) / kTableBytes;
static_assert(kTables == 6, "PML4, PDPT and a PD for each of the 4 GiB");

kvm_segment flat(std::uint16_t selector, std::uint8_t type, bool long_mode) {
  kvm_segment segment = {};
  segment.limit = 0xFFFF'FFFF;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = long_mode ? 0 : 1;
  segment.s = 1;
  segment.l = long_mode ? 1 : 0;
  segment.g = 1;
  return segment;
}

// The descriptor that loading the segment's selector would find.
std::uint64_t descriptor_of(const kvm_segment& segment) {
  const auto bits = [](std::uint64_t value, int at) { return value << at; };
  const std::uint64_t access =
      bits(segment.type, 0) | bits(segment.s, 4) | bits(segment.dpl, 5) | bits(segment.present, 7);
  const std::uint64_t flags = bits(segment.l, 1) | bits(segment.db, 2) | bits(segment.g, 3);
  const std::uint64_t limit = segment.g != 0 ? segment.limit >> 12 : segment.limit;
  return (limit & 0xFFFF) | bits(access, 40) | bits(limit >> 16, 48) | bits(flags, 52);
}

// Segments in registers, and the table that says the same.
Result<> set_segments(const vmm::GuestMemory& memory, bool long_mode, kvm_sregs& sregs) {
  sregs.cs = flat(kCodeSelector, kCode, long_mode);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(kDataSelector, kData, false);
  sregs.tr.limit = 0x67;
  sregs.tr.selector = kTssSelector;
  sregs.tr.type = kBusyTss;
  sregs.tr.present = 1;
  sregs.ldt.unusable = 1;
  std::array<std::uint64_t, 6> table = {};
  table[kCodeSelector / 8] = descriptor_of(sregs.cs);
  table[kDataSelector / 8] = descriptor_of(sregs.ds);
  table[kTssSelector / 8] = descriptor_of(sregs.tr);
  sregs.gdt.base = kGdt;
  sregs.gdt.limit = sizeof table - 1;
  return memory.write(kGdt, std::as_bytes(std::span(table)));
}

Result<> write_page_tables(const vmm::GuestMemory& memory) {
  std::array<std::uint64_t, kTables * kEntriesPerTable> tables = {};
  const std::uint64_t directories = kTables - 2;
  tables[0] = (kPageTables + kTableBytes) | kPresentWritable;
  for (std::uint64_t i = 0; i < directories; ++i) {
    tables[kEntriesPerTable + i] = (kPageTables + (2 + i) * kTableBytes) | kPresentWritable;
  }
  for (std::uint64_t i = 0; i < directories * kEntriesPerTable; ++i) {
    tables[2 * kEntriesPerTable + i] = i * kLargePage | kPresentWritable | kLarge;
  }
  return memory.write(kPageTables, std::as_bytes(std::span(tables)));
}

KernelBoot begin_at(std::uint64_t entry) {
  KernelBoot boot = {};
  boot.regs.rip = entry;
  boot.regs.rsp = kBootStack;
  boot.regs.rflags = kFlags;
  boot.sregs.apic_base = kApicBase;
  boot.sregs.cr0 = kCr0Protected;
  return boot;
}

}  // namespace

Result<KernelBoot> enter_linux64(const vmm::GuestMemory& memory, std::uint64_t entry) {
  KernelBoot boot = begin_at(entry);
  VOLT_TRY(set_segments(memory, true, boot.sregs));
  VOLT_TRY(write_page_tables(memory));
  boot.regs.rsi = kZeroPage;
  boot.sregs.cr0 |= kCr0Paging;
  boot.sregs.cr3 = kPageTables;
  boot.sregs.cr4 = kCr4Pae;
  boot.sregs.efer = kEferLongMode;
  return boot;
}

Result<KernelBoot> enter_pvh(const vmm::GuestMemory& memory, std::uint64_t entry) {
  KernelBoot boot = begin_at(entry);
  VOLT_TRY(set_segments(memory, false, boot.sregs));
  boot.regs.rbx = kStartInfo;
  return boot;
}

}  // namespace volt::pc
