// XXH3-128 with 256-bit vectors, for processors that have them: two to three times as fast as with
// the 128 bits that every x86-64 has. Its file alone is compiled for them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volt::formats {

struct WideXxh3 {
  std::uint64_t low, high;
};

// Only where the processor has AVX2.
WideXxh3 wide_xxh3(const void* bytes, std::size_t size, std::uint64_t seed);

}  // namespace volt::formats
