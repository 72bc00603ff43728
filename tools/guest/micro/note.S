// The two ELF notes: Xen's, by which other VMMs find the PVH entry, and Volt's (guest_abi::Note).
  .section .note.guest, "a", @note
  .balign 4
  .long 4, 8, 18                  // XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad pvh_entry

  .long 5, 2f - 1f, 1
  .asciz "Volt"
  .balign 4
1:
  .long 1, 0                      // abi, reserved
  .quad entry
  .quad resume
  .quad __stack_top
  .quad 0x104000                  // cr3
  .quad 0x101000                  // GDT
  .quad 0x101100                  // IDT
  .quad 0x101400                  // TSS
  .long 0x3F, 0x1FF, 0x168        // their limits
  .long 0
  .quad 0x600000                  // least RAM: all below the working set
  .quad __mutable_base
  .quad __mutable_bytes
2:
  .if (2b - 1b) - 104
  .error "Volt note: not the size of guest_abi::Note"
  .endif

  .section .note.GNU-stack, "", @progbits
