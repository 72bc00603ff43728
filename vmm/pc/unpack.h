// What kernels and their modules are packed with. Input is hostile: nothing is allocated by what it
// merely claims beyond address space, and what it unpacks to has exactly the size that was said
// before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/mapping.h"

namespace volt::pc {

// No kernel is larger.
inline constexpr std::uint64_t kMaxUnpacked = 512 << 20;

enum class Packing { kLz4, kZstd, kGzip, kXz, kBzip2, kLzma, kLzo, kUnknown };

// By its first bytes.
Packing packing_of(std::span<const std::byte> packed);
const char* name_of(Packing packing);

// kUnsupported, with its name, for what only the guest itself can unpack.
Result<Mapping> unpack(std::span<const std::byte> packed, std::uint64_t unpacked_bytes);

// Of a size that nobody has said: what a module's file is packed with. kCorrupt beyond `most`.
Result<std::vector<std::byte>> unpack_unsized(std::span<const std::byte> packed, std::size_t most);

}  // namespace volt::pc
