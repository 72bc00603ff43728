// Sizes as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/os/error.h"

namespace volt::tools {

// "64M", "1g", "4096", "8KiB": powers of 1024. kInvalid names `what`.
Result<std::uint64_t> parse_size(std::string_view text, std::string_view what);
Result<std::uint64_t> parse_number(std::string_view text, std::string_view what);

// "64 MiB", "1.5 GiB".
std::string human_size(std::uint64_t bytes);

}  // namespace volt::tools
