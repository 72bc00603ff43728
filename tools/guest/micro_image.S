// The guest's file as bytes; VOLT_MICRO_ELF is its path.
  .section .rodata
  .balign 4096                    // loaded by page, so that its own pages start where the host's do
  .globl volt_micro_image_begin, volt_micro_image_end
volt_micro_image_begin:
  .incbin VOLT_MICRO_ELF
volt_micro_image_end:

  .section .note.GNU-stack, "", @progbits
