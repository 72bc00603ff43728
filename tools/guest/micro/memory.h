// Guest memory by address. Linear and physical addresses are the same; the compiler's own idea of
// which objects exist must not matter, so every turn from number to pointer is here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volt::guest {

// memcpy and friends of libc.cc: the compiler calls them, too.
extern "C" {
void* memcpy(void* to, const void* from, std::size_t bytes);
void* memset(void* to, int value, std::size_t bytes);
}

template <typename T>
[[gnu::always_inline]] inline T* at_address(std::uint64_t address) {
  asm("" : "+r"(address));
  return reinterpret_cast<T*>(address);  // NOLINT: that is this function's purpose
}

// Word `index` of arguments that may lie anywhere.
[[gnu::always_inline]] inline std::uint64_t load_word(const std::uint8_t* bytes,
                                                      std::uint64_t index) {
  std::uint64_t word;
  __builtin_memcpy(&word, bytes + index * sizeof word, sizeof word);
  return word;
}

[[gnu::always_inline]] inline void store_word(std::uint8_t* bytes, std::uint64_t index,
                                              std::uint64_t word) {
  __builtin_memcpy(bytes + index * sizeof word, &word, sizeof word);
}

}  // namespace volt::guest
