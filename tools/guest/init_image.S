// The agent's file as bytes; VOLT_INIT_ELF is its path.
  .section .rodata
  .balign 64
  .globl volt_init_image_begin, volt_init_image_end
volt_init_image_begin:
  .incbin VOLT_INIT_ELF
volt_init_image_end:

  .section .note.GNU-stack, "", @progbits
