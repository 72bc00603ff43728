#include "vmm/os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>

namespace volt {

Result<Fd> open_at(int dir_fd, const char* path, int flags, unsigned mode) {
  Fd fd{::openat(dir_fd, path, flags | O_CLOEXEC, mode)};
  if (fd.valid()) return fd;
  auto error = sys_error("open", path);
  if (error.error().sys_errno == ENOENT) error.error().code = Code::kNotFound;
  return error;
}

Result<std::uint64_t> file_size(const Fd& fd, std::string_view name) {
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return sys_error("fstat", name);
  return static_cast<std::uint64_t>(info.st_size);
}

Result<> read_exact(const Fd& fd, std::span<std::byte> into, std::uint64_t offset,
                    std::string_view name) {
  while (!into.empty()) {
    const ssize_t got = ::pread(fd.get(), into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return sys_error("read", name);
    if (got == 0) {
      return fail(Code::kCorrupt, std::string(name) + ": ends at byte " + std::to_string(offset) +
                                      ", " + std::to_string(into.size()) + " bytes too early");
    }
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<std::vector<std::byte>> read_whole(const Fd& fd, std::size_t limit_bytes,
                                          std::string_view name) {
  const std::uint64_t size = VOLT_TRY(file_size(fd, name));
  if (size > limit_bytes) {
    return fail(Code::kCorrupt, std::string(name) + ": " + std::to_string(size) +
                                    " bytes, more than the " + std::to_string(limit_bytes) +
                                    " such a file may have");
  }
  std::vector<std::byte> bytes(size);
  VOLT_TRY(read_exact(fd, bytes, 0, name));
  return bytes;
}

Result<> write_all(const Fd& fd, std::span<const std::byte> bytes, std::uint64_t offset,
                   std::string_view name) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return sys_error("write", name);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return {};
}

Result<> write_all(const Fd& fd, std::span<const std::span<const std::byte>> parts,
                   std::uint64_t offset, std::string_view name) {
  iovec vectors[64];
  while (!parts.empty()) {
    const auto now = parts.first(std::min(parts.size(), std::size(vectors)));
    for (std::size_t i = 0; i < now.size(); ++i) {
      vectors[i] = {const_cast<std::byte*>(now[i].data()), now[i].size()};
    }
    const ssize_t put =
        ::pwritev(fd.get(), vectors, static_cast<int>(now.size()), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return sys_error("write", name);
    // Few calls take less than all; then what is left of each goes by itself.
    auto taken = static_cast<std::size_t>(put);
    for (const std::span<const std::byte> part : now) {
      const std::size_t begun = std::min(taken, part.size());
      VOLT_TRY(write_all(fd, part.subspan(begun), offset + begun, name));
      taken -= begun;
      offset += part.size();
    }
    parts = parts.subspan(now.size());
  }
  return {};
}

Result<> sync(const Fd& fd, std::string_view name) {
  if (::fsync(fd.get()) != 0) return sys_error("fsync", name);
  return {};
}

Result<std::vector<std::string>> directory_entries(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
  if (dir == nullptr) {
    if (errno == ENOENT) return std::vector<std::string>{};
    return sys_error("opendir", path);
  }
  std::vector<std::string> entries;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") entries.push_back(name);
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

Result<> make_directories(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0777) != 0 && errno != EEXIST) return sys_error("mkdir", part);
    if (end == std::string::npos) return {};
  }
}

}  // namespace volt
