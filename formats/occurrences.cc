#include "formats/occurrences.h"

#include <array>
#include <limits>
#include <optional>
#include <string>

#include "formats/field.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Walks one message's fields. nullopt: the bytes end early or encode no number.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> rest) : rest_(rest) {}

  bool at_end() const { return rest_.empty(); }

  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = std::to_integer<std::uint64_t>(rest_.front());
      rest_ = rest_.subspan(1);
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    return std::nullopt;
  }

  std::optional<std::span<const std::byte>> take(std::uint64_t bytes) {
    if (bytes > rest_.size()) return std::nullopt;
    const std::span<const std::byte> taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }

  // The field's content where it has a length, empty otherwise.
  std::optional<std::span<const std::byte>> content(std::uint32_t wire_type) {
    switch (wire_type) {
      case kVarint:
        if (!varint()) return std::nullopt;
        return std::span<const std::byte>();
      case kFixed64:
        return take(8);
      case kFixed32:
        return take(4);
      case kBytes:
        if (const std::optional<std::uint64_t> bytes = varint()) return take(*bytes);
        return std::nullopt;
      default:  // groups, which proto3 does not have, and numbers nobody assigned
        return std::nullopt;
    }
  }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace

Result<> check_occurrences(std::span<const std::byte> body, std::span<const Occurrence> rules) {
  require(rules.size() <= kMaxOccurrenceRules, "too many occurrence rules");
  std::array<std::size_t, kMaxOccurrenceRules> seen = {};
  Cursor cursor(body);
  while (!cursor.at_end()) {
    const std::optional<std::uint64_t> tag = cursor.varint();
    // Protobuf reads 32 bits of a tag; one that has more would mean another field to it than to us.
    if (!tag || *tag < 8 || *tag > std::numeric_limits<std::uint32_t>::max()) {
      return corrupt("body", "not an encoded message");
    }
    const auto wire_type = static_cast<std::uint32_t>(*tag & 7);
    const std::optional<std::span<const std::byte>> content = cursor.content(wire_type);
    if (!content) return corrupt("body", "not an encoded message");
    if (wire_type != kBytes) continue;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      if (rules[i].field != *tag >> 3) continue;
      if (++seen[i] > rules[i].at_most) {
        return corrupt(rules[i].name, join({"more than ", std::to_string(rules[i].at_most)}));
      }
      if (rules[i].inside.empty()) continue;
      VOLT_TRY(under(rules[i].name, check_occurrences(*content, rules[i].inside)));
    }
  }
  return {};
}

}  // namespace volt::formats
