// How often a field may occur, counted in the encoded bytes before protobuf builds anything. Two
// bytes of an empty sub-message become some 200 bytes of memory; without this, a hostile body of
// 16 MiB would claim more than a gigabyte. It also refuses a single message given twice, which
// protobuf would merge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/os/error.h"

namespace volt::formats {

struct Occurrence {
  std::uint32_t field;
  std::size_t at_most;
  const char* name;
  std::span<const Occurrence> inside = {};  // when it is a message
};

inline constexpr std::size_t kMaxOccurrenceRules = 16;  // per message

// Fields without a rule are not counted, but their bytes must be well-formed.
Result<> check_occurrences(std::span<const std::byte> body, std::span<const Occurrence> rules);

}  // namespace volt::formats
