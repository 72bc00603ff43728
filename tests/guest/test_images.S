// The files; VOLT_EXACT_ELF and the like are their paths.
  .section .rodata
  .globl volt_exact_begin, volt_exact_end, volt_nonsense_begin, volt_nonsense_end
  .globl volt_reach_begin, volt_reach_end
  .balign 16
volt_exact_begin:
  .incbin VOLT_EXACT_ELF
volt_exact_end:
  .balign 16
volt_nonsense_begin:
  .incbin VOLT_NONSENSE_ELF
volt_nonsense_end:
  .balign 16
volt_reach_begin:
  .incbin VOLT_REACH_ELF
volt_reach_end:

  .section .note.GNU-stack, "", @progbits
