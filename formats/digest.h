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
Sha256 sha256(std::span<const std::byte> bytes);

std::string to_hex(std::span<const std::byte> bytes);
// Exactly 64 lower-case hex digits, or kInvalid.
Result<Sha256> sha256_from_hex(std::string_view hex);

}  // namespace volt::formats
