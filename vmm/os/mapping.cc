#include "vmm/os/mapping.h"

#include <sys/mman.h>

namespace volt {

Result<Mapping> Mapping::create(std::size_t bytes, int prot, int flags, int fd,
                                std::uint64_t offset, const char* what) {
  void* data = ::mmap(nullptr, bytes, prot, flags, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) return sys_error("mmap", what);
  return Mapping(static_cast<std::byte*>(data), bytes);
}

Result<Mapping> Mapping::aligned(std::size_t bytes, std::size_t alignment, int prot, int flags,
                                 const char* what) {
  const auto past = [&](const Mapping& mapping) {
    return reinterpret_cast<std::uintptr_t>(mapping.data_) & (alignment - 1);
  };
  flags |= MAP_PRIVATE | MAP_ANONYMOUS;
  {
    Mapping plain = VOLT_TRY(create(bytes, prot, flags, -1, 0, what));
    if (past(plain) == 0) return plain;  // as kernels since 6.7 do of themselves for 2 MiB
  }
  Mapping larger = VOLT_TRY(create(bytes + alignment, prot, flags, -1, 0, what));
  const std::size_t head = (alignment - past(larger)) & (alignment - 1);
  if (head != 0 && ::munmap(larger.data_, head) != 0) return sys_error("munmap", what);
  larger.data_ += head;
  larger.bytes_ -= head;
  if (::munmap(larger.data_ + bytes, larger.bytes_ - bytes) != 0) return sys_error("munmap", what);
  larger.bytes_ = bytes;
  return larger;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace volt
