// Everything the CPU looks up, as initialised data: GDT, IDT, TSS with its I/O permission bitmap,
// and page tables that map all RAM a guest can have. Nothing is built at run time.
//
// Accessed and dirty bits are set everywhere, so that the CPU never writes to these pages: a clone
// would pay a page copy for each. The fixed addresses are guest_abi.h's and link.ld's.

// ---- GDT at 0x101000. Accessed bits set; the TSS is "available", because LTR refuses a busy one.
  .section .system, "aw", @progbits
  .globl tss_end
gdt:
  .quad 0
  .quad 0x00CF9B000000FFFF        // 0x08 ring 0 code, 32 bits
  .quad 0x00AF9B000000FFFF        // 0x10 ring 0 code, 64 bits
  .quad 0x00CF93000000FFFF        // 0x18 ring 0 data
  .quad 0x00CFF3000000FFFF        // 0x20 ring 3 data
  .quad 0x00AFFB000000FFFF        // 0x28 ring 3 code, 64 bits
  .quad 0x0000891014000168        // 0x30 TSS: base 0x101400, limit 0x168
  .quad 0

// ---- IDT at 0x101100: 32 interrupt gates to the stubs at 0x100200 (entry.S), all on IST1.
  .org 0x100
  .set stub, 0x0200
  .rept 32
  .word stub, 0x10
  .byte 1, 0x8E
  .word 0x10
  .quad 0
  .set stub, stub + 16
  .endr

// ---- TSS at 0x101400. The bitmap covers ports below 0x800; a set bit denies. It is needed besides
// IOPL 3, which some hosts ignore. The CPU reads two bytes at a time, hence the terminator.
  .org 0x400
  .long 0
  .quad 0x103000                  // RSP0
  .quad 0, 0, 0
  .quad 0x103000                  // IST1
  .org 0x466
  .word 0x68                      // where the bitmap starts
  .fill 0x0C, 1, 0xFF
  .byte 0xEE                      // 0x60, 0x64: keyboard controller, for power off
  .fill 0x03, 1, 0xFF
  .byte 0xFE                      // 0x80: Cloud Hypervisor's boot timer
  .fill 0x0C, 1, 0xFF
  .byte 0xFD                      // 0xE9: debug console
  .byte 0xEF                      // 0xF4: QEMU's isa-debug-exit
  .fill 0x60, 1, 0xFF
  .byte 0x00                      // 0x3F8-0x3FF: COM1
  .fill 0x20, 1, 0xFF
  .byte 0xFD                      // 0x501: isa-debug-exit, where its default puts it
  .fill 0x0B, 1, 0xFF
  .byte 0x00, 0x00                // 0x560-0x56F: Volt
  .fill 0x12, 1, 0xFF
  .byte 0xFE                      // 0x600: Cloud Hypervisor's power off
  .fill 0x3F, 1, 0xFF
  .byte 0xFF                      // terminator
tss_end:
  .org 0x1000                     // IST1 stack page
  .org 0x2000

// ---- Page tables. U at every level of what ring 3 may reach; no page is writable and executable.
  .set kTable, 0x67               // P RW U A D
  .set kUserReadOnly, 0x8000000000000065
  .set kRing0Text, 0x61           // P A D
  .set kRing0Data, 0x8000000000000063
  .set kUserText2M, 0xE5          // P U A D PS
  .set kUserData2M, 0x80000000000000E7
  .set kUncached2M, 0x80000000000000FF  // with PWT and PCD

  .section .tables, "a", @progbits
pt:                               // 0..2 MiB in small pages. Absent: page 0 and these tables.
  .quad 0
  .set page, 0x1000
  .rept 0xFF
  .quad page + kUserReadOnly      // the loader's start_info and command line
  .set page, page + 0x1000
  .endr
  .quad 0x100000 + kRing0Text
  .quad 0x101000 + kRing0Data
  .quad 0x102000 + kRing0Data
  .org 0x1000
pml4:
  .quad 0x105000 + kTable
  .org 0x2000
pdpt:
  .set page, 0x106000
  .rept 17
  .quad page + kTable
  .set page, page + 0x1000
  .endr
  .org 0x3000
pds:                              // 0..3 GiB, the two leaves of the hole, 4..17 GiB
  .quad 0x103000 + kTable
  .quad 0x200000 + kUserText2M
  .set page, 0x400000
  .rept 3 * 512 - 2
  .quad page + kUserData2M
  .set page, page + 0x200000
  .endr
  .quad 0xC0000000 + kUncached2M  // Firecracker's boot timer
  .fill 127, 8, 0
  .quad 0xD0000000 + kUserData2M  // the exchange window
  .fill 383, 8, 0
  .set page, 0x100000000
  .rept 13 * 512
  .quad page + kUserData2M
  .set page, page + 0x200000
  .endr

  .section .note.GNU-stack, "", @progbits
