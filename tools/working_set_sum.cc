#include "tools/working_set_sum.h"

#include <algorithm>
#include <array>

#include "vmm/guest_abi.h"

namespace volt::tools {
namespace {

constexpr std::uint64_t kWordsPerPage = guest_abi::kPageBytes / 8;

}  // namespace

std::uint64_t seeded_sum(std::uint64_t seed, std::uint64_t pages,
                         std::span<const std::uint64_t> touched) {
  guest_abi::Checksum sum;
  std::array<std::uint64_t, kWordsPerPage> words;
  for (std::uint64_t page = 0; page < pages; ++page) {
    for (std::uint64_t i = 0; i < kWordsPerPage; ++i) {
      words[i] = guest_abi::seeded_word(seed, page * kWordsPerPage + i);
    }
    if (std::find(touched.begin(), touched.end(), page) != touched.end()) ++words[1];
    sum.add_block(words.data(), words.size());
  }
  return sum.value();
}

std::uint64_t touch_sum(std::uint64_t seed, std::span<const std::uint64_t> pages) {
  guest_abi::Checksum sum;
  for (const std::uint64_t page : pages) {
    sum.add(guest_abi::seeded_word(seed, page * kWordsPerPage));
  }
  return sum.value();
}

std::uint64_t expected_scan(const formats::v1::Guest& guest) {
  if (guest.calls_size() != 0) return guest.working_set_checksum();
  const bool filled = guest.workload() == "kv";
  return seeded_sum(guest.seed(), filled ? guest.working_set_bytes() / guest_abi::kPageBytes : 0);
}

}  // namespace volt::tools
