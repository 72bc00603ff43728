#include "formats/archive.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "formats/field.h"
#include "formats/head.h"
#include "formats/hot_set.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr FixedHead kHead = {.magic = "VOLTARC", .title = "archive", .must_be_zero_at = 12};
constexpr std::size_t kSummedSectionBytes = 16;

struct Rule {
  const char* name;  // null: there is no such section
  std::uint64_t least_bytes;
  std::uint64_t most_bytes;
};

// How long a section can be, by the limits of what it holds.
Rule rule_of(Section kind) {
  switch (kind) {
    case Section::kManifest:
      return {"manifest", kHeadBytes, kHeadBytes + kMaxBodyBytes};
    case Section::kState:
      return {"state", kHeadBytes, kHeadBytes + kMaxBodyBytes};
    case Section::kIndex:
      return {"index", kFixedHeadBytes, kMaxSectionBytes};
    case Section::kHotSet: {
      const std::uint64_t empty = kHotSetHeadBytes + sizeof(Xxh128);
      return {"hot set", empty, empty + kMaxHotPages * 8};
    }
    case Section::kUnit:
      return {"unit", 1, kMaxUnitBytes};
    case Section::kEnd:
      return {"end", sizeof(Sha256), sizeof(Sha256)};
  }
  return {nullptr, 0, 0};
}

using SummedSection = std::array<std::byte, kSummedSectionBytes>;

SummedSection summed_part(Section kind, std::uint64_t bytes) {
  SummedSection part = {};
  store(part.data(), std::to_underlying(kind));
  store<std::uint64_t>(part.data() + 8, bytes);
  return part;
}

Result<> check_section_head(std::span<const std::byte> head) {
  if (head.size() < kSectionHeadBytes) {
    return corrupt("section", join({std::to_string(head.size()), " bytes, not ",
                                    std::to_string(kSectionHeadBytes)}));
  }
  const auto kind = load<std::uint32_t>(head.data());
  const Rule rule = rule_of(Section{kind});
  if (rule.name == nullptr) {
    return corrupt("section", join({"kind: ", std::to_string(kind), ", not from 1 to 6"}));
  }
  if (load<std::uint32_t>(head.data() + 4) != 0) return corrupt(rule.name, "reserved: not zero");
  const auto bytes = load<std::uint64_t>(head.data() + 8);
  if (bytes < rule.least_bytes || bytes > rule.most_bytes) {
    return corrupt(rule.name, join({"bytes: ", std::to_string(bytes), ", not from ",
                                    std::to_string(rule.least_bytes), " to ",
                                    std::to_string(rule.most_bytes)}));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_archive_head() {
  std::vector<std::byte> head(kArchiveHeadBytes);
  seal_head(kHead, head);
  return head;
}

Result<> decode_archive_head(std::span<const std::byte> head) {
  VOLT_TRY_IN("archive", check_fixed_head(kHead, head));
  if (!all_zero(head.subspan(16, 48))) {
    return fail(Code::kCorrupt, "archive: reserved: not zero");
  }
  return {};
}

std::vector<std::byte> encode_section_head(Section kind, std::span<const std::byte> bytes) {
  const Rule rule = rule_of(kind);
  require(rule.name != nullptr, "archive: no such section");
  require(bytes.size() >= rule.least_bytes && bytes.size() <= rule.most_bytes,
          "archive: a section's length");
  const SummedSection part = summed_part(kind, bytes.size());
  std::vector<std::byte> head(kSectionHeadBytes);
  std::ranges::copy(part, head.begin());
  std::ranges::copy(xxh128(part, bytes), head.begin() + kSummedSectionBytes);
  return head;
}

Result<SectionHead> decode_section_head(std::span<const std::byte> head) {
  VOLT_TRY_IN("archive", check_section_head(head));
  SectionHead decoded = {.kind = Section{load<std::uint32_t>(head.data())},
                         .bytes = load<std::uint64_t>(head.data() + 8),
                         .sum = {}};
  std::memcpy(decoded.sum.data(), head.data() + kSummedSectionBytes, decoded.sum.size());
  return decoded;
}

Result<> check_section(const SectionHead& head, std::span<const std::byte> bytes) {
  const Rule rule = rule_of(head.kind);
  require(rule.name != nullptr, "archive: no such section");
  if (bytes.size() != head.bytes) {
    return fail(Code::kCorrupt,
                join({"archive: ", rule.name, ": bytes: ", std::to_string(head.bytes),
                      ", there are ", std::to_string(bytes.size())}));
  }
  if (xxh128(summed_part(head.kind, head.bytes), bytes) == head.sum) return {};
  return fail(Code::kCorrupt,
              join({"archive: ", rule.name, ": sum: bytes changed since it was written"}));
}

void SectionOrder::expect_units(std::uint64_t units) {
  units_left_ = units;
}

Result<> SectionOrder::next(Section kind) {
  const std::optional<Section> expected = after(kind);
  if (kind != expected) {
    const char* name = rule_of(kind).name;
    return fail(Code::kCorrupt,
                join({"archive: section: ", name == nullptr ? "of no kind" : name, ", expected ",
                      expected ? rule_of(*expected).name : "nothing more"}));
  }
  if (kind == Section::kUnit) --*units_left_;
  last_ = kind;
  return {};
}

// What must come next, if anything; of the two that may follow the index, the one that is `wanted`.
std::optional<Section> SectionOrder::after(Section wanted) const {
  if (!last_) return Section::kManifest;
  switch (*last_) {
    case Section::kManifest:
      return Section::kState;
    case Section::kState:
      return Section::kIndex;
    case Section::kIndex:
      if (wanted == Section::kHotSet) return wanted;
      break;
    case Section::kHotSet:
    case Section::kUnit:
      break;
    case Section::kEnd:
      return std::nullopt;
  }
  require(units_left_.has_value(), "archive: nobody said how many units there are");
  return *units_left_ > 0 ? Section::kUnit : Section::kEnd;
}

}  // namespace volt::formats
