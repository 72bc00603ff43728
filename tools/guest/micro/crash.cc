#include "tools/guest/micro/crash.h"

#include "tools/guest/micro/entry.h"
#include "tools/guest/micro/memory.h"

namespace volt::guest {
namespace {

// In assembly, because to the compiler each of these is undefined behaviour that it may drop.
void read_from(std::uint64_t address) {
  asm volatile("movq (%0), %0" : "+r"(address) : : "memory");
}

void write_to(std::uint64_t address) {
  asm volatile("movq %0, (%0)" : : "r"(address) : "memory");
}

void divide_by_zero() {
  std::uint32_t low = 1, high = 0;
  asm volatile("divl %2" : "+a"(low), "+d"(high) : "r"(0));
}

[[noreturn]] void run_data() {
  std::uint64_t code = 0xF4F4'F4F4'F4F4'F4F4;  // on the stack, where NX is set
  asm volatile("jmp *%0" : : "r"(&code), "m"(code));
  for (;;) {
  }
}

// Ends at the stack's lowest address: below lies the read-only text leaf.
[[gnu::noinline]] std::uint64_t recurse(std::uint64_t depth) {
  volatile std::uint64_t frame[32];
  frame[depth & 31] = depth;
  const std::uint64_t deeper = frame[depth & 31] == ~std::uint64_t{0} ? 0 : recurse(depth + 1);
  return deeper + frame[depth & 31];
}

std::uint64_t first_unbacked(std::uint64_t ram_bytes) {
  return guest_abi::working_set_page(0, ram_bytes / guest_abi::kPageBytes);
}

}  // namespace

[[gnu::cold]] void crash(guest_abi::CrashKind kind, std::uint64_t ram_bytes) {
  using guest_abi::CrashKind;
  switch (kind) {
    case CrashKind::kUndefined:
      asm volatile("ud2");
      break;
    case CrashKind::kNull:
      read_from(0);
      break;
    case CrashKind::kDivide:
      divide_by_zero();
      break;
    case CrashKind::kWriteCode:
      write_to(reinterpret_cast<std::uint64_t>(&crash));
      break;
    case CrashKind::kRunData:
      run_data();
    case CrashKind::kStack:
      recurse(0);
      break;
    case CrashKind::kUnbacked:
      read_from(first_unbacked(ram_bytes));
      break;
  }
}

}  // namespace volt::guest
