// decode_hot_set() on anything, as it came and with its sums put right: an error or pages below
// the limit that are written as the same bytes.
#include "formats/hot_set.h"

#include <algorithm>
#include <cstdint>

#include "formats/little_endian.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {
namespace {

constexpr std::size_t kSumBytes = sizeof(Xxh128);

void fuzz_file(std::span<const std::byte> file) {
  const Result<HotSet> set = decode_hot_set(file);
  if (!set) return expect_refusal(set.error(), "hotset: ");
  for (const HotPage& page : set->pages) {
    expect(page.page < std::uint64_t{1} << 40, "the page can be a guest's");
  }
  expect_canonical(file, encode_hot_set(*set));
}

// Puts right magic and major, the count and both sums. What is no whole word goes.
void repair(std::vector<std::byte>& file) {
  constexpr char kStart[10] = {'V', 'O', 'L', 'T', 'H', 'O', 'T', 0, 1, 0};
  const std::size_t count = (file.size() - kHotSetHeadBytes - kSumBytes) / 8;
  file.resize(kHotSetHeadBytes + count * 8 + kSumBytes);
  std::memcpy(file.data(), kStart, sizeof kStart);
  store<std::uint64_t>(file.data() + 16, count);
  const std::span<std::byte> words = std::span(file).subspan(kHotSetHeadBytes, count * 8);
  const Xxh128 sum = xxh128(words, block_seed(std::span(file).subspan(32)));
  std::ranges::copy(sum, std::span(file).last(kSumBytes).begin());
  put_head_sum(file);
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  return fuzz_twice(data, size, kHotSetHeadBytes + sizeof(Xxh128), fuzz_file, repair);
}
