// The working set: pages of seeded words, seen as records of 16 bytes by get and put and as pages
// by everything else. Of no pages for the echo workload.
#pragma once

#include <cstdint>

#include "tools/guest/micro/memory.h"
#include "vmm/guest_abi.h"

namespace volt::guest {

inline constexpr std::uint64_t kWorkingSetBase = 0x60'0000;
inline constexpr std::uint64_t kPageWords = guest_abi::kPageBytes / sizeof(std::uint64_t);

class WorkingSet {
 public:
  struct Record {
    std::uint64_t key;
    std::uint64_t value;
  };
  static constexpr std::uint64_t kPageRecords = guest_abi::kPageBytes / sizeof(Record);

  // Writes every word.
  void fill(std::uint64_t pages, std::uint64_t seed);

  std::uint64_t pages() const { return pages_; }
  std::uint64_t records() const { return pages_ * kPageRecords; }

  // Whether [first, first + count) are all pages of it.
  bool has(std::uint64_t first, std::uint64_t count) const {
    return first <= pages_ && count <= pages_ - first;
  }

  // `number` is below pages().
  std::uint64_t* page(std::uint64_t number) const {
    return at_address<std::uint64_t>(guest_abi::working_set_page(kWorkingSetBase, number));
  }

  // `number` is below records().
  Record* record(std::uint64_t number) const {
    return reinterpret_cast<Record*>(page(number / kPageRecords)) + number % kPageRecords;
  }

  // Makes it page `number` of the working set that `seed` gives.
  void write_page(std::uint64_t number, std::uint64_t seed) const;

 private:
  std::uint64_t pages_;
};

}  // namespace volt::guest
