#include "vmm/os/mapping.h"

#include <sys/mman.h>

namespace volt {

Result<Mapping> Mapping::create(std::size_t bytes, int prot, int flags, int fd,
                                std::uint64_t offset, const char* what) {
  void* data = ::mmap(nullptr, bytes, prot, flags, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) return sys_error("mmap", what);
  return Mapping(static_cast<std::byte*>(data), bytes);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace volt
