#include "uffd/firecracker.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "uffd/userfaultfd.h"

namespace volt::uffd::firecracker {
namespace {

using nlohmann::json;

std::unexpected<Error> bad(const std::string& what) {
  return fail(Code::kCorrupt, "firecracker hand-shake: " + what);
}

Result<std::uint64_t> number(const json& region, const char* key) {
  const auto found = region.find(key);
  if (found == region.end() || !found->is_number_unsigned()) {
    return bad(std::string(key) + ": a number is expected");
  }
  return found->get<std::uint64_t>();
}

// Three generations: none, only page_size_kib (in bytes, whatever it is called), both.
Result<> check_page_size(const json& region) {
  for (const char* key : {"page_size", "page_size_kib"}) {
    if (!region.contains(key)) continue;
    const std::uint64_t bytes = VOLT_TRY(number(region, key));
    if (bytes == kPageBytes) continue;
    return fail(Code::kUnsupported, "firecracker hand-shake: " + std::string(key) + ": " +
                                        std::to_string(bytes) + ", only 4096 is served");
  }
  return {};
}

}  // namespace

std::string encode(std::span<const pager::WireView> regions) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const pager::WireView& region : regions) {
    all.push_back({{"base_host_virt_addr", region.address},
                   {"size", region.bytes},
                   {"offset", region.image_offset},
                   {"page_size", kPageBytes},
                   {"page_size_kib", kPageBytes}});
  }
  return all.dump();
}

Result<std::optional<std::vector<pager::WireView>>> decode(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxBytes) return bad("length: more than 64 KiB");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  // An array can only be whole where its bracket closes; no string in it holds one.
  if (text.find_last_not_of(" \r\n\t") == std::string_view::npos ||
      text[text.find_last_not_of(" \r\n\t")] != ']') {
    return std::nullopt;
  }
  // Deep nesting is refused before the parser, which recurses when it is destroyed.
  if (std::ranges::count(text, '[') + std::ranges::count(text, '{') > 1024) {
    return bad("regions: too many, or nested");
  }
  const json array = json::parse(text, nullptr, false);
  if (array.is_discarded()) return bad("it is no JSON");
  if (!array.is_array() || array.empty() || array.size() > pager::kMaxViews) {
    return bad("regions: an array of 1 to 256");
  }
  std::vector<pager::WireView> regions;
  for (const json& region : array) {
    if (!region.is_object()) return bad("regions: an object each");
    VOLT_TRY(check_page_size(region));
    pager::WireView view = {};
    view.address = VOLT_TRY(number(region, "base_host_virt_addr"));
    view.bytes = VOLT_TRY(number(region, "size"));
    view.image_offset = VOLT_TRY(number(region, "offset"));
    regions.push_back(view);
  }
  return regions;
}

}  // namespace volt::uffd::firecracker
