// What the fuzzers of formats share: a broken promise ends the program, and sums are put right so
// that a mutation gets past them (it seldom keeps one).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "formats/digest.h"
#include "formats/little_endian.h"
#include "formats/summed_blocks.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// `file` is how the context begins: "index: ".
inline void expect_refusal(const Error& error, std::string_view file) {
  expect(error.code == Code::kCorrupt || error.code == Code::kUnsupported, "the code is of two");
  expect(error.context.starts_with(file), "the error names the file");
  expect(error.context.find(": ", file.size()) != std::string::npos, "the error names a field");
}

// The most bytes, up to so many, that some number of entries takes with its sums.
inline std::size_t whole_blocks(std::size_t bytes) {
  while (!summed_entries(bytes)) --bytes;
  return bytes;
}

// Sums of an array of whole blocks.
inline void repair_blocks(std::span<std::byte> blocks, std::uint64_t seed) {
  while (!blocks.empty()) {
    const std::span<std::byte> block = blocks.first(std::min(kBlockBytes, blocks.size()));
    const std::span<std::byte> sum = block.last(sizeof(Xxh128));
    std::ranges::copy(xxh128(block.first(block.size() - sum.size()), seed++), sum.begin());
    blocks = blocks.subspan(block.size());
  }
}

// What was read is written as the same bytes, unless they are of a minor that this build is not.
inline void expect_canonical(std::span<const std::byte> file, std::span<const std::byte> written) {
  const auto minor = load<std::uint16_t>(file.data() + 10);
  expect(minor != 0 || std::ranges::equal(written, file), "writing is canonical");
}

// An input as it came and, if it is no shorter than `least`, once more with its sums put right.
template <typename Fuzz, typename Repair>
int fuzz_twice(const std::uint8_t* data, std::size_t size, std::size_t least, Fuzz fuzz,
               Repair repair) {
  const auto input = std::as_bytes(std::span(data, size));
  fuzz(input);
  if (size < least) return 0;
  std::vector<std::byte> repaired(input.begin(), input.end());
  repair(repaired);
  fuzz(repaired);
  return 0;
}

}  // namespace volt::formats
