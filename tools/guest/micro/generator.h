// The guest's random generator: ChaCha20 with fast key erasure. Its key is part of every snapshot,
// so before a restored guest answers anything the host's fresh entropy is mixed in.
#pragma once

#include <cstdint>

namespace volt::guest {

class Generator {
 public:
  // new key = a ChaCha block of the old key, XOR entropy: secret while either of the two is.
  void mix(const std::uint8_t (&entropy)[32]);

  // Replaces the key before it returns, so that what was given out cannot be computed again.
  void fill(std::uint8_t* out, std::uint32_t bytes);

 private:
  static constexpr int kKeyWords = 8;
  std::uint32_t key_[kKeyWords];
};

}  // namespace volt::guest
