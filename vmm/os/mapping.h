// Owns one range of this process's address space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "vmm/os/error.h"

namespace volt {

class Mapping {
 public:
  // mmap(2) at an address the kernel chooses. `what` names the mapping in errors.
  static Result<Mapping> create(std::size_t bytes, int prot, int flags, int fd,
                                std::uint64_t offset, const char* what);
  // Anonymous and private, at a multiple of `alignment` (a power of two).
  static Result<Mapping> aligned(std::size_t bytes, std::size_t alignment, int prot, int flags,
                                 const char* what);

  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping();

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }
  std::span<std::byte> bytes() const noexcept { return {data_, bytes_}; }

 private:
  Mapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_;
  std::size_t bytes_;
};

}  // namespace volt
