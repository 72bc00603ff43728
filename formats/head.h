// The fixed head in front of a manifest or a machine state: readable without decoding the rest.
// All integers little-endian.
//   off size field
//     0    8 magic          one per kind of file
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    12    4 must_be_zero   a set bit means: this file needs a newer reader
//    16    8 body_bytes     what follows the head; at most kMaxBodyBytes
//    24    8 reserved       zero
//    32   16 sum            XXH3-128 over bytes 0..31 and the body
// Check order, first failure wins: file size against the head, magic, major, must_be_zero,
// body_bytes against the file size, reserved, sum.
// The sum finds damage. It does not prove origin: whoever can write the file can write the sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"

namespace volt::formats {

enum class FileKind { kManifest, kMachineState };

inline constexpr std::size_t kHeadBytes = 48;
inline constexpr std::size_t kMaxBodyBytes = 16 << 20;

// Head and body, ready to be written.
std::vector<std::byte> seal(FileKind kind, std::span<const std::byte> body);

// The body within `file`, which must hold exactly one sealed body. `name` is for errors.
Result<std::span<const std::byte>> unseal(FileKind kind, std::span<const std::byte> file,
                                          std::string_view name);

}  // namespace volt::formats
