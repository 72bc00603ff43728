// The `exact` guest's life between two requests: nothing but registers. All state a CPU can hold
// in ring 3 moves with every step, so whatever a capture loses shows in the next answer.

  .set kPortPark, 0x561
  .set kRequestSeq, 192           // offsets in the window's ControlPage; exact.cc checks them
  .set kGeneration, 64
  .set kAcknowledged, 336

  .macro each_line what           // exact::Registers, in its order
  .set at, 0
  .irp reg, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12
  \what \reg, at
  .set at, at + 8
  .endr
  .endm
  .macro each_vector what
  .set at, 0
  .irp reg, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
  \what \reg, at
  .set at, at + 16
  .endr
  .endm

  .macro step_line reg, at
  addq exact_slopes + \at(%rip), %\reg
  .endm
  .macro step_vector number, at
  paddq exact_slopes + 96 + \at(%rip), %xmm\number
  .endm
  .macro store_line reg, at
  movq %\reg, exact_registers + \at(%rip)
  .endm
  .macro store_vector number, at
  movups %xmm\number, exact_registers + 128 + \at(%rip)
  .endm
  .macro load_line reg, at
  movq exact_registers + \at(%rip), %\reg
  .endm
  .macro load_vector number, at
  movups exact_registers + 128 + \at(%rip), %xmm\number
  .endm

  .section .text, "ax", @progbits
  .globl exact_run
exact_run:                        // exact_registers holds what to start with
  subq $8, %rsp                   // so that calls find the stack as C++ wants it
  movq exact_registers + 96(%rip), %r13
  xorl %r14d, %r14d
  xorl %r15d, %r15d
  ldmxcsr exact_registers + 384(%rip)
  fldcw exact_registers + 388(%rip)
  each_vector load_vector
  each_line load_line

next:
  each_line step_line
  each_vector step_vector
  incq %r15
  pushq %rax
  movq kGeneration(%r13), %rax
  cmpq exact_generation(%rip), %rax
  jne adopt
  movq kGeneration + 8(%r13), %rax
  cmpq exact_generation + 8(%rip), %rax
  jne adopt
  popq %rax
  cmpl %r14d, kRequestSeq(%r13)
  je idle
  cmpl $0, kRequestSeq(%r13)
  jne serve
idle:
  cmpb $0, exact_runs_on(%rip)
  jne next
  testb $63, %r15b
  jnz next
  outl %eax, %dx                  // PARK
  jmp next

adopt:                            // it is another VM now, whose requests are counted from 1
  movq kGeneration(%r13), %rax
  movq %rax, exact_generation(%rip)
  movq %rax, kAcknowledged(%r13)
  movq kGeneration + 8(%r13), %rax
  movq %rax, exact_generation + 8(%rip)
  movq %rax, kAcknowledged + 8(%r13)
  popq %rax
  xorl %r14d, %r14d
  jmp next

serve:
  each_line store_line
  movq %r13, exact_registers + 96(%rip)
  movq %r14, exact_registers + 104(%rip)
  movq %r15, exact_registers + 112(%rip)
  movq %rsp, exact_registers + 120(%rip)
  each_vector store_vector
  stmxcsr exact_registers + 384(%rip)
  fnstcw exact_registers + 388(%rip)
  call exact_serve                // its result is the seq it served
  movl %eax, %r14d
  each_vector load_vector
  each_line load_line
  movw exact_answer_port(%rip), %dx
  outl %eax, %dx                  // DONE or KICK
  movw $kPortPark, %dx
  jmp next

  .section .note.GNU-stack, "", @progbits
