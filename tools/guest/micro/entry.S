// Every way into the guest: the PVH entry and the exception stubs, which are all the ring-0 code
// there is, and the two ring-3 entries that the Volt note names.
//
// Ring 0 only loads constants. Some hosts emulate it instruction by instruction, about 4,000 times
// slower than ring 3 and without SSE, rep prefixes or int3: so no loops, no compiler output.

  .set kTables, 0x104000
  .set kCode64, 0x10
  .set kData, 0x18
  .set kUserData, 0x23
  .set kUserCode, 0x2B
  .set kTss, 0x30
  .set kIstTop, 0x103000
  .set kPortPanic, 0x564
  .set kPortDebugExit, 0xF4       // QEMU's isa-debug-exit

  .section .ring0, "ax", @progbits
  .globl pvh_entry
  .code32
pvh_entry:                        // 32-bit flat, paging off, no stack; EBX = hvm_start_info
  lgdt gdt_pointer
  movl $0x620, %eax               // PAE, OSFXSR, OSXMMEXCPT; AVX state stays off
  movl %eax, %cr4
  movl $kTables, %eax
  movl %eax, %cr3
  movl $0xC0000080, %ecx          // EFER: LME and NXE, both before paging goes on
  movl $0x900, %eax
  xorl %edx, %edx
  wrmsr
  movl $0x80010033, %eax          // PG, WP, NE, ET, MP, PE
  movl %eax, %cr0
  ljmp $kCode64, $pvh_long

  .balign 4
gdt_pointer:
  .word 0x3F
  .long 0x101000
  .balign 4
idt_pointer:
  .word 0x1FF
  .quad 0x101100

  .code64
  .org 0x100, 0xF4
pvh_long:
  lidt idt_pointer
  movl $kTss, %eax
  ltr %ax
  movl $kUserData, %eax
  movl %eax, %ds
  movl %eax, %es
  movl $kData, %eax
  movl %eax, %ss
  movl $kIstTop, %esp
  pushq $kUserData
  pushq $__stack_top
  pushq $0x3002                   // IOPL 3: QEMU's TCG wants it besides the bitmap
  pushq $kUserCode
  pushq $entry
  movl %ebx, %edi
  xorl %esi, %esi                 // kBootedByPvh
  iretq

// One stub for each vector, 16 bytes apart: the IDT in tables.S counts on it.
  .org 0x200, 0xF4
  .set vector, 0
  .rept 32
  .balign 16, 0xF4
  .if !((1 << vector) & 0x60227D00)  // 8, 10-14, 17, 21, 29, 30: the CPU pushes an error code
  pushq $0
  .endif
  pushq $vector
  jmp panic
  .set vector, vector + 1
  .endr

// The stack now is a guest_abi::PanicFrame.
  .org 0x400, 0xF4
panic:
  pushq %rax
  pushq %rdx
  movl $kPortPanic, %edx
  movl 16(%rsp), %eax             // the vector
  outl %eax, %dx
  outb %al, $kPortDebugExit
1:
  hlt
  jmp 1b
  .org 0x1000, 0xF4

// The ring-3 entries. RSP is the stack top; RDI and RSI are as guest_abi::Note says.
  .section .text.entry, "ax", @progbits
  .globl entry, resume
entry:
  movl $guest_boot, %eax
  jmp start
  .org 0x10, 0xF4
resume:
  movl $guest_resume, %eax
start:
  fninit                          // a host need not carry x87 and MXCSR state: both start here
  pushq $0x1F80
  ldmxcsr (%rsp)
  popq %rcx
  xorl %ebp, %ebp
  call *%rax
  ud2

  .section .stack, "aw", @nobits
  .skip 0x4000

  .section .note.GNU-stack, "", @progbits
