#include "tools/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "vmm/os/file.h"
#include "vmm/os/mapping.h"

namespace volt::tools {

Result<DroppedFile> drop_from_page_cache(const std::string& path) {
  constexpr std::size_t kPage = 4096;
  const Fd fd = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  const std::uint64_t bytes = VOLT_TRY(file_size(fd, path));
  if (bytes == 0) return DroppedFile{};
  VOLT_TRY(sync(fd, path));  // dirty pages would stay
  const int error = ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) {
    errno = error;
    return sys_error("posix_fadvise", path);
  }
  const Mapping mapping =
      VOLT_TRY(Mapping::create(bytes, PROT_READ, MAP_SHARED, fd.get(), 0, path.c_str()));
  std::vector<unsigned char> pages((bytes + kPage - 1) / kPage);
  if (::mincore(mapping.data(), bytes, pages.data()) != 0) return sys_error("mincore", path);
  const auto stayed = std::count_if(pages.begin(), pages.end(), [](auto each) { return each & 1; });
  return DroppedFile{bytes, std::min(bytes, static_cast<std::uint64_t>(stayed) * kPage)};
}

}  // namespace volt::tools
