// Small files and directories, without the heap.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volt::init {

// Up to `size` - 1 bytes and a NUL; how many, or -1 with errno.
long read_text(const char* path, char* into, std::size_t size);
// 0 or errno. The file is there already.
int write_text(const char* path, const char* text);

// dir/name; what does not fit becomes an empty path, which is nowhere.
struct Path {
  char text[512];
  Path(const char* directory, const char* name);
};

// Names of a directory in order, without those that start with a dot.
struct Names {
  static constexpr std::size_t kCapacity = 256;
  char names[kCapacity][256];
  std::size_t count = 0;

  // 0 or errno: ENOENT without such a directory, E2BIG if there are more than fit.
  int read(const char* directory);
};

bool is_program(const char* path);  // an executable file

// Milliseconds of CLOCK_MONOTONIC, from where timeouts are counted.
std::int64_t now_ms();

}  // namespace volt::init
