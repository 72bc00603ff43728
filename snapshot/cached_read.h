// Reads what the page cache has, and leaves the disk alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/os/mapping.h"

namespace volt::snapshot {

// Bytes read: fewer where the page cache has not all. A file system that cannot tell is memory
// itself. It is asked first whether it has them, by `mapped`, a mapping of the file that nobody
// reads through, or null: a read that may not wait fails where they are missing, but has the kernel
// fetch them, behind the back of a read past the cache.
std::size_t read_cached(int file, const Mapping* mapped, std::span<std::byte> into,
                        std::uint64_t offset);

}  // namespace volt::snapshot
