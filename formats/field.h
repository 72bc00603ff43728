// Errors that name a field: "memory.regions[2].guest_base: overlaps the region before". The path is
// put together only once something is wrong, from the inside out.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/os/error.h"

namespace volt::formats {

inline std::string join(std::initializer_list<std::string_view> parts) {
  std::string all;
  for (const std::string_view part : parts) all.append(part);
  return all;
}

// In both, an empty `field` means: the part that under() will name.
inline std::unexpected<Error> bad_field(Code code, std::string_view field, std::string_view what) {
  return fail(code, join({field, ": ", what}));
}

inline std::unexpected<Error> corrupt(std::string_view field, std::string_view what) {
  return bad_field(Code::kCorrupt, field, what);
}

inline Result<> under(std::string_view outer, Result<> inner) {
  if (inner) return inner;
  const std::string& context = inner.error().context;
  inner.error().context = join({outer, context.starts_with(':') ? "" : ".", context});
  return inner;
}

inline Result<> under(std::string_view list, std::size_t i, Result<> inner) {
  if (inner) return inner;
  return under(join({list, "[", std::to_string(i), "]"}), std::move(inner));
}

}  // namespace volt::formats
