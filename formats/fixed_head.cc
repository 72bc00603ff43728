#include "formats/fixed_head.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "formats/digest.h"
#include "formats/field.h"
#include "formats/little_endian.h"

namespace volt::formats {
namespace {

constexpr std::uint16_t kMajor = 1;
constexpr std::uint16_t kMinor = 0;
constexpr std::size_t kMagicBytes = 8;

}  // namespace

void seal_head(const FixedHead& kind, std::span<std::byte> head) {
  std::memcpy(head.data(), kind.magic, kMagicBytes);
  store<std::uint16_t>(head.data() + 8, kMajor);
  store<std::uint16_t>(head.data() + 10, kMinor);
  put_head_sum(head);
}

Result<> check_fixed_head(const FixedHead& kind, std::span<const std::byte> bytes) {
  if (bytes.size() < kFixedHeadBytes) {
    return corrupt("head", join({std::to_string(bytes.size()), " bytes, not ",
                                 std::to_string(kFixedHeadBytes)}));
  }
  const std::byte* head = bytes.data();
  if (std::memcmp(head, kind.magic, kMagicBytes) != 0) {
    return corrupt("magic", join({"not a Volt ", kind.title}));
  }
  if (const auto major = load<std::uint16_t>(head + 8); major != kMajor) {
    return bad_field(Code::kUnsupported, "major",
                     join({std::to_string(major), ", this build reads ", std::to_string(kMajor)}));
  }
  if (!head_sum_holds(bytes)) return corrupt("head_sum", "bytes changed since it was written");
  if (const auto bits = load<std::uint32_t>(head + kind.must_be_zero_at); bits != 0) {
    return bad_field(Code::kUnsupported, "must_be_zero",
                     join({std::to_string(bits), ", needs a newer build"}));
  }
  return {};
}

void put_head_sum(std::span<std::byte> head) {
  const Xxh128 sum = xxh128(head.first(kSummedHeadBytes));
  std::ranges::copy(sum, head.subspan(kSummedHeadBytes).begin());
}

bool head_sum_holds(std::span<const std::byte> head) {
  const Xxh128 sum = xxh128(head.first(kSummedHeadBytes));
  return std::ranges::equal(sum, head.subspan(kSummedHeadBytes, sum.size()));
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace volt::formats
