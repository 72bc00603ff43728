// The agent of Linux guests, as a program in this program's own memory.
#pragma once

#include <cstddef>
#include <span>

namespace volt::tools {

std::span<const std::byte> init_image();  // for as long as the program runs

}  // namespace volt::tools
