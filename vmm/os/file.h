// Files read and written whole, and the few directory calls that publish them durably.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt {

// openat(2) with O_CLOEXEC added. A missing file is kNotFound.
Result<Fd> open_at(int dir_fd, const char* path, int flags, unsigned mode = 0);

Result<std::uint64_t> file_size(const Fd& fd, std::string_view name);

// Reads exactly `into.size()` bytes at `offset`; an early end of file is kCorrupt.
Result<> read_exact(const Fd& fd, std::span<std::byte> into, std::uint64_t offset,
                    std::string_view name);

// The whole file, refused beyond `limit_bytes` before anything is allocated.
Result<std::vector<std::byte>> read_whole(const Fd& fd, std::size_t limit_bytes,
                                          std::string_view name);

Result<> write_all(const Fd& fd, std::span<const std::byte> bytes, std::uint64_t offset,
                   std::string_view name);
// One after the other, with as few calls as there can be.
Result<> write_all(const Fd& fd, std::span<const std::span<const std::byte>> parts,
                   std::uint64_t offset, std::string_view name);

// fsync(2) of a file or a directory.
Result<> sync(const Fd& fd, std::string_view name);

// Names in a directory, sorted, without `.` and `..`; none if there is no such directory.
Result<std::vector<std::string>> directory_entries(const std::string& path);

// mkdir -p.
Result<> make_directories(const std::string& path);

}  // namespace volt
