#include "tools/size.h"

#include <cctype>
#include <charconv>
#include <cstdio>

namespace volt::tools {
namespace {

std::unexpected<Error> bad(std::string_view text, std::string_view what, const char* wanted) {
  return fail(Code::kInvalid, std::string(what) + " '" + std::string(text) + "': " + wanted);
}

}  // namespace

Result<std::uint64_t> parse_number(std::string_view text, std::string_view what) {
  std::uint64_t value = 0;
  const bool hex = text.starts_with("0x");
  const std::string_view digits = hex ? text.substr(2) : text;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (error == std::errc::result_out_of_range) return bad(text, what, "larger than 64 bits hold");
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    return bad(text, what, "a number is expected");
  }
  return value;
}

Result<std::uint64_t> parse_size(std::string_view text, std::string_view what) {
  constexpr const char* kWanted = "a size is expected, such as 256M or 1G";
  constexpr const char* kTooLarge = "larger than any machine";
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) return bad(text, what, kTooLarge);
  if (error != std::errc{}) return bad(text, what, kWanted);
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  int shift = 0;
  if (!unit.empty()) {
    const int letter = std::toupper(static_cast<unsigned char>(unit.front()));
    const std::size_t power = std::string_view("KMGTPE").find(static_cast<char>(letter));
    if (power == std::string_view::npos) return bad(text, what, kWanted);
    shift = 10 * (static_cast<int>(power) + 1);
    unit.remove_prefix(1);
    if (!unit.empty() && unit != "iB" && unit != "B") return bad(text, what, kWanted);
  }
  if (value > (UINT64_MAX >> shift)) return bad(text, what, kTooLarge);
  return value << shift;
}

std::string human_size(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024) value /= 1024, ++unit;
  char text[32];
  const bool whole = value >= 100 || value == static_cast<double>(static_cast<int>(value));
  std::snprintf(text, sizeof text, whole ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace volt::tools
