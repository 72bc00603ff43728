// A caller's bug ends the program, in release builds too: a file that breaks its own format must
// never be written. Not for input, which becomes an Error.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace volt::formats {

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "volt: bug in the caller of formats/: %s\n", what);
  std::abort();
}

}  // namespace volt::formats
