// A micro guest's ELF file: which bytes go where, and the note that says how to start it. The file
// is treated as hostile: every offset and length in it is checked before use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/guest_abi.h"
#include "vmm/guest_memory.h"
#include "vmm/os/error.h"

namespace volt::vmm {

class GuestImage {
 public:
  // `file` must outlive the image.
  static Result<GuestImage> parse(std::span<const std::byte> file);

  const guest_abi::Note& note() const { return note_; }
  std::span<const std::byte> file() const { return file_; }

  // Copies the segments into RAM that is still zero.
  Result<> load(const GuestMemory& memory) const;

 private:
  struct Segment {
    std::uint64_t address;
    std::uint64_t memory_bytes;
    std::span<const std::byte> bytes;
  };
  GuestImage() = default;

  std::span<const std::byte> file_;
  guest_abi::Note note_ = {};
  std::vector<Segment> segments_;
};

}  // namespace volt::vmm
