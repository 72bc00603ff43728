// A file out of the page cache, so that who reads it next waits for the disk.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/os/error.h"

namespace volt::tools {

struct DroppedFile {
  std::uint64_t bytes = 0;
  // That could not be dropped: all of them where the file system is memory, and what some process
  // has mapped. All of them, too, of a file that this user may only read: the kernel tells nobody
  // else what is cached.
  std::uint64_t stayed_bytes = 0;
};
Result<DroppedFile> drop_from_page_cache(const std::string& path);

}  // namespace volt::tools
