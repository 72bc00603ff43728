#include "tools/guest/micro/kv.h"

namespace volt::guest {

void WorkingSet::fill(std::uint64_t pages, std::uint64_t seed) {
  pages_ = pages;
  for (std::uint64_t number = 0; number < pages; ++number) write_page(number, seed);
}

void WorkingSet::write_page(std::uint64_t number, std::uint64_t seed) const {
  std::uint64_t* const words = page(number);
  for (std::uint64_t i = 0; i < kPageWords; ++i) {
    words[i] = guest_abi::seeded_word(seed, number * kPageWords + i);
  }
}

}  // namespace volt::guest
