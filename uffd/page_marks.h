// Which pages of an image something is true of. Costs nothing until the first mark.
#pragma once

#include <cstdint>
#include <vector>

namespace volt::uffd {

class PageMarks {
 public:
  explicit PageMarks(std::uint64_t pages) : pages_(pages) {}

  bool empty() const { return bits_.empty(); }
  bool has(std::uint64_t page) const {
    return !bits_.empty() && (bits_[page / 64] >> page % 64 & 1) != 0;
  }
  void mark(std::uint64_t page) {
    if (bits_.empty()) bits_.resize((pages_ + 63) / 64);
    bits_[page / 64] |= std::uint64_t{1} << page % 64;
  }

 private:
  std::uint64_t pages_;
  std::vector<std::uint64_t> bits_;
};

}  // namespace volt::uffd
