// The two sums of this project. XXH3-128 finds corruption and duplicates, fast; it is not collision
// resistant and never stands for identity. SHA-256 names things.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "vmm/os/error.h"

namespace volt::formats {

using Xxh128 = std::array<std::byte, 16>;  // canonical (big-endian) form
using Sha256 = std::array<std::byte, 32>;

Xxh128 xxh128(std::span<const std::byte> bytes, std::uint64_t seed = 0);
// Over both, one after the other.
Xxh128 xxh128(std::span<const std::byte> first, std::span<const std::byte> second);

Sha256 sha256(std::span<const std::byte> bytes);

// SHA-256 of bytes that are never in one place: an index's entries, a memory file.
class Sha256Stream {
 public:
  Sha256Stream();
  void add(std::span<const std::byte> bytes);
  Sha256 finish();  // once; nothing may be added after it

 private:
  alignas(8) std::array<std::byte, 112> state_;  // libcrypto's SHA256_CTX, kept out of this header
};

std::string to_hex(std::span<const std::byte> bytes);
// Exactly 64 lower-case hex digits, or kInvalid.
Result<Sha256> sha256_from_hex(std::string_view hex);

}  // namespace volt::formats
