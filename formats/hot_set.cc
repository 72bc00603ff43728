#include "formats/hot_set.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/require.h"
#include "formats/summed_blocks.h"

namespace volt::formats {
namespace {

constexpr FixedHead kHead = {.magic = "VOLTHOT", .title = "hot set", .must_be_zero_at = 24};
constexpr std::size_t kWordBytes = 8;
constexpr std::size_t kSumBytes = sizeof(Xxh128);
constexpr std::uint64_t kWritten = std::uint64_t{1} << 63;
constexpr std::uint64_t kEndOfPages = kEndOfAddresses / kHotPageBytes;
constexpr std::uint64_t kPageBits = (std::uint64_t{1} << 52) - 1;

// Up to and including the length of the file.
Result<> check_head(std::span<const std::byte> file) {
  VOLT_TRY(check_fixed_head(kHead, file));
  if (const auto bytes = load<std::uint32_t>(file.data() + 12); bytes != kHotPageBytes) {
    return corrupt("page_bytes",
                   join({std::to_string(bytes), ", not ", std::to_string(kHotPageBytes)}));
  }
  if (load<std::uint32_t>(file.data() + 28) != 0) return corrupt("reserved", "not zero");
  const auto page_count = load<std::uint64_t>(file.data() + 16);
  if (page_count > kMaxHotPages) {
    return corrupt("page_count",
                   join({std::to_string(page_count), ", at most ", std::to_string(kMaxHotPages)}));
  }
  if (file.size() != kHotSetHeadBytes + page_count * kWordBytes + kSumBytes) {
    return corrupt("page_count", join({std::to_string(page_count), " does not fit a file of ",
                                       std::to_string(file.size()), " bytes"}));
  }
  return {};
}

Result<> check_word(std::uint64_t word) {
  if ((word & ~(kWritten | kPageBits)) != 0) return corrupt("reserved", "not zero");
  if (const std::uint64_t page = word & kPageBits; page >= kEndOfPages) {
    return corrupt("page", join({std::to_string(page), ", beyond the limits"}));
  }
  return {};
}

Result<HotSet> read(std::span<const std::byte> file) {
  VOLT_TRY(check_head(file));
  HotSet set;
  std::memcpy(set.digest.data(), file.data() + 32, set.digest.size());
  const auto words = file.subspan(kHotSetHeadBytes, file.size() - kHotSetHeadBytes - kSumBytes);
  if (!std::ranges::equal(xxh128(words, block_seed(set.digest)), file.last(kSumBytes))) {
    return corrupt("sum", "bytes changed since it was written, or belong elsewhere");
  }
  set.pages.resize(words.size() / kWordBytes);
  for (std::size_t i = 0; i < set.pages.size(); ++i) {
    const auto word = load<std::uint64_t>(words.data() + i * kWordBytes);
    VOLT_TRY_IN(number_of("word", i), check_word(word));
    set.pages[i] = {.page = word & kPageBits, .written = (word & kWritten) != 0};
  }
  return set;
}

}  // namespace

std::vector<std::byte> encode_hot_set(const HotSet& set) {
  require(set.pages.size() <= kMaxHotPages, "hotset: too many pages");
  const std::size_t words_bytes = set.pages.size() * kWordBytes;
  std::vector<std::byte> file(kHotSetHeadBytes + words_bytes + kSumBytes);
  store<std::uint32_t>(file.data() + 12, kHotPageBytes);
  store<std::uint64_t>(file.data() + 16, set.pages.size());
  std::ranges::copy(set.digest, file.begin() + 32);
  seal_head(kHead, file);
  std::byte* to = file.data() + kHotSetHeadBytes;
  for (const HotPage& page : set.pages) {
    require(page.page < kEndOfPages, "hotset: a page beyond the limits");
    store<std::uint64_t>(to, page.page | (page.written ? kWritten : 0));
    to += kWordBytes;
  }
  const auto words = std::span(file).subspan(kHotSetHeadBytes, words_bytes);
  std::ranges::copy(xxh128(words, block_seed(set.digest)), std::span(file).last(kSumBytes).begin());
  return file;
}

Result<HotSet> decode_hot_set(std::span<const std::byte> file) {
  HotSet set = VOLT_TRY_IN("hotset", read(file));
  return set;
}

}  // namespace volt::formats
