// The built-in guest's ELF file, in this program's own memory.
#pragma once

#include <cstddef>
#include <span>

namespace volt::tools {

std::span<const std::byte> micro_image();  // for as long as the program runs

}  // namespace volt::tools
