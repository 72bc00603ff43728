#include "uffd/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace volt::uffd {
namespace {

constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;

// /dev/userfaultfd grants by file permission what the system call grants by capability or sysctl.
Fd open_any() {
  const Fd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  if (device.valid()) {
    Fd fd{::ioctl(device.get(), USERFAULTFD_IOC_NEW, kFlags)};
    if (fd.valid()) return fd;
  }
  return Fd{static_cast<int>(::syscall(SYS_userfaultfd, kFlags))};
}

}  // namespace

Result<Userfaultfd> Userfaultfd::open() {
  Fd fd = open_any();
  if (!fd.valid()) {
    const int code = errno;
    if (code != EPERM && code != EACCES && code != ENOSYS) return sys_error("userfaultfd");
    return std::unexpected(Error{
        Code::kHostUnable, code,
        code == ENOSYS ? "userfaultfd: this kernel has none (CONFIG_USERFAULTFD)"
                       : "userfaultfd: this user may not handle the faults that KVM takes; allow "
                         "/dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1"});
  }
  uffdio_api api = {};
  api.api = UFFD_API;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return sys_error("UFFDIO_API");
  return Userfaultfd(std::move(fd));
}

Result<> Userfaultfd::register_missing(std::span<std::byte> range) {
  uffdio_register request = {};
  request.range.start = reinterpret_cast<std::uintptr_t>(range.data());
  request.range.len = range.size();
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) return sys_error("UFFDIO_REGISTER");
  return {};
}

Result<Userfaultfd::CopyOutcome> Userfaultfd::copy(std::byte* to, std::span<const std::byte> from,
                                                   bool wake_after) {
  uffdio_copy request = {};
  request.dst = reinterpret_cast<std::uintptr_t>(to);
  request.src = reinterpret_cast<std::uintptr_t>(from.data());
  request.len = from.size();
  request.mode = wake_after ? 0 : UFFDIO_COPY_MODE_DONTWAKE;
  request.copy = 0;  // the kernel leaves it alone when it fails early
  if (::ioctl(fd_.get(), UFFDIO_COPY, &request) == 0) {
    return CopyOutcome{Copied::kAll, from.size()};
  }
  // `copy` is signed: bytes done, or a negated errno when the first page failed already.
  const std::size_t done = request.copy > 0 ? static_cast<std::size_t>(request.copy) : 0;
  switch (errno) {
    case EAGAIN:
      return CopyOutcome{done > 0 ? Copied::kSome : Copied::kBusy, done};
    case EEXIST:
      return CopyOutcome{Copied::kAlreadyThere, done};
    case ESRCH:
      return CopyOutcome{Copied::kProcessGone, done};
    default:
      return sys_error("UFFDIO_COPY");
  }
}

Result<> Userfaultfd::wake(std::span<std::byte> range) {
  uffdio_range request = {.start = reinterpret_cast<std::uintptr_t>(range.data()),
                          .len = range.size()};
  if (::ioctl(fd_.get(), UFFDIO_WAKE, &request) != 0) return sys_error("UFFDIO_WAKE");
  return {};
}

Result<std::size_t> Userfaultfd::read_messages(std::span<uffd_msg> into) {
  const ssize_t got = ::read(fd_.get(), into.data(), into.size_bytes());
  if (got >= 0) return static_cast<std::size_t>(got) / sizeof(uffd_msg);
  if (errno == EAGAIN || errno == EINTR) return std::size_t{0};
  return sys_error("read userfaultfd");
}

}  // namespace volt::uffd
