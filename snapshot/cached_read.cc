#include "snapshot/cached_read.h"

#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace volt::snapshot {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMaxReadBytes = 2 << 20;  // a unit, at most

// Whether the page cache has all of it. The mapping is never read through.
bool resident(const Mapping& file, std::uint64_t offset, std::size_t bytes) {
  const std::uint64_t from = offset / kPage * kPage;
  const std::uint64_t end =
      std::min<std::uint64_t>((offset + bytes + kPage - 1) / kPage * kPage, file.size());
  std::array<unsigned char, kMaxReadBytes / kPage + 1> pages;
  if (from >= end || (end - from) / kPage > pages.size()) return false;
  if (::mincore(file.data() + from, end - from, pages.data()) != 0) return true;
  const auto count = static_cast<std::ptrdiff_t>((end - from + kPage - 1) / kPage);
  return std::all_of(pages.begin(), pages.begin() + count, [](auto page) { return page & 1; });
}

}  // namespace

std::size_t read_cached(int file, const Mapping* mapped, std::span<std::byte> into,
                        std::uint64_t offset) {
  if (mapped != nullptr && !resident(*mapped, offset, into.size())) return 0;
  const iovec part = {.iov_base = into.data(), .iov_len = into.size()};
  ssize_t got = ::preadv2(file, &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  if (got < 0 && errno == EOPNOTSUPP) {
    got = ::preadv(file, &part, 1, static_cast<off_t>(offset));
  }
  return got < 0 ? 0 : static_cast<std::size_t>(got);
}

}  // namespace volt::snapshot
