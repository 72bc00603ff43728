// An initial RAM disk for any kernel and any VMM: its only program prints one line on the console
// and powers the machine off.
#pragma once

#include <cstddef>
#include <vector>

#include "vmm/os/error.h"

namespace volt::tools {

inline constexpr char kBanner[] = "volt-bench: userspace";

Result<std::vector<std::byte>> banner_initrd();

}  // namespace volt::tools
