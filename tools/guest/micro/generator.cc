#include "tools/guest/micro/generator.h"

#include <cstddef>

#include "tools/guest/micro/memory.h"

namespace volt::guest {
namespace {

constexpr int kBlockWords = 16;

enum class Purpose : std::uint32_t { kFill = 0, kMix = 1 };  // the nonce: keeps the streams apart

[[gnu::always_inline]] inline std::uint32_t rotate(std::uint32_t word, int by) {
  return word << by | word >> (32 - by);
}

[[gnu::always_inline]] inline void quarter(std::uint32_t* x, int a, int b, int c, int d) {
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 16);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 12);
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 8);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 7);
}

// RFC 8439, section 2.3. Loops are kept: small code is fewer pages to bring in after a restore.
[[gnu::hot, gnu::noinline]] void chacha_block(const std::uint32_t* key, std::uint32_t counter,
                                              Purpose purpose, std::uint32_t* out) {
  std::uint32_t start[kBlockWords];
  start[0] = 0x61707865, start[1] = 0x3320646E, start[2] = 0x79622D32, start[3] = 0x6B206574;
  for (int i = 0; i < 8; ++i) start[4 + i] = key[i];
  start[12] = counter, start[13] = static_cast<std::uint32_t>(purpose), start[14] = start[15] = 0;
  for (int i = 0; i < kBlockWords; ++i) out[i] = start[i];
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 4; ++i) quarter(out, i, 4 + i, 8 + i, 12 + i);
    for (int i = 0; i < 4; ++i) {
      quarter(out, i, 4 + ((i + 1) & 3), 8 + ((i + 2) & 3), 12 + ((i + 3) & 3));
    }
  }
  for (int i = 0; i < kBlockWords; ++i) out[i] += start[i];
}

// Stale stack would otherwise be captured with the next snapshot.
[[gnu::always_inline]] inline void wipe(std::uint32_t (&block)[kBlockWords]) {
  for (std::uint32_t& word : block) word = 0;
  asm volatile("" : : "r"(block) : "memory");
}

}  // namespace

[[gnu::hot]] void Generator::mix(const std::uint8_t (&entropy)[32]) {
  std::uint32_t fresh[kKeyWords];
  __builtin_memcpy(fresh, entropy, sizeof fresh);
  std::uint32_t block[kBlockWords];
  chacha_block(key_, 0, Purpose::kMix, block);
  for (int i = 0; i < kKeyWords; ++i) key_[i] = block[i] ^ fresh[i];
  wipe(block);
}

[[gnu::hot]] void Generator::fill(std::uint8_t* out, std::uint32_t bytes) {
  std::uint32_t block[kBlockWords];
  std::uint32_t next[kKeyWords];
  std::uint32_t used = sizeof next;  // of the block: its first half is the next key
  std::uint32_t counter = 0;
  chacha_block(key_, counter++, Purpose::kFill, block);
  for (int i = 0; i < kKeyWords; ++i) next[i] = block[i];
  while (bytes > 0) {
    if (used == sizeof block) {
      chacha_block(key_, counter++, Purpose::kFill, block);
      used = 0;
    }
    const auto left = static_cast<std::uint32_t>(sizeof block) - used;
    const std::uint32_t part = bytes < left ? bytes : left;
    memcpy(out, reinterpret_cast<const std::uint8_t*>(block) + used, part);
    out += part, bytes -= part, used += part;
  }
  for (int i = 0; i < kKeyWords; ++i) key_[i] = next[i];
  wipe(block);
}

}  // namespace volt::guest
