// The instructions C++ has no word for: port I/O, the time stamp counter, PAUSE.
#pragma once

#include <cstdint>

namespace volt::guest {

// A doorbell or an answer from the host may change memory behind the compiler's back.
[[gnu::always_inline]] inline void out32(std::uint16_t port, std::uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

[[gnu::always_inline]] inline void out8(std::uint16_t port, std::uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

[[gnu::always_inline]] inline std::uint8_t in8(std::uint16_t port) {
  std::uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

[[gnu::always_inline]] inline std::uint64_t read_tsc() {
  std::uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return std::uint64_t{high} << 32 | low;
}

[[gnu::always_inline]] inline void pause() {
  asm volatile("pause");
}

}  // namespace volt::guest
