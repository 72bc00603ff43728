// Nothing that is inline and shared with other files may come in here: the linker would keep one
// copy of it, maybe this file's, and processors without these vectors would run into it.
#include "formats/wide_xxh3.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#ifndef __AVX2__
#error "compiled without AVX2"
#endif

namespace volt::formats {

WideXxh3 wide_xxh3(const void* bytes, std::size_t size, std::uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes, size, seed);
  return {hash.low64, hash.high64};
}

}  // namespace volt::formats
