// The one way into a file that may lie about itself: what is not all there is not given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace volt::vmm {

// [offset, offset + bytes) of `file`.
inline std::optional<std::span<const std::byte>> slice(std::span<const std::byte> file,
                                                       std::uint64_t offset, std::uint64_t bytes) {
  if (offset > file.size() || bytes > file.size() - offset) return std::nullopt;
  return file.subspan(offset, bytes);
}

template <typename T>
  requires std::is_trivially_copyable_v<T>
std::optional<T> read_at(std::span<const std::byte> file, std::uint64_t offset) {
  const auto bytes = slice(file, offset, sizeof(T));
  if (!bytes) return std::nullopt;
  T value;
  std::memcpy(&value, bytes->data(), sizeof value);
  return value;
}

}  // namespace volt::vmm
