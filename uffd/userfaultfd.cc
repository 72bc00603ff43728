#include "uffd/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <string>

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

uffdio_range range_of(std::span<std::byte> range) {
  return {.start = reinterpret_cast<std::uintptr_t>(range.data()), .len = range.size()};
}

// `returned` and errno are what the call left, `progress` what it wrote: bytes done, or a negated
// errno when the first page failed already; 0 when it failed before that.
Result<Userfaultfd::Outcome> outcome(int returned, std::int64_t progress, std::size_t asked,
                                     const char* call) {
  using enum Userfaultfd::Did;
  if (returned == 0) return Userfaultfd::Outcome{kAll, asked};
  const std::size_t done = progress > 0 ? static_cast<std::size_t>(progress) : 0;
  switch (errno) {
    case EAGAIN:
      return Userfaultfd::Outcome{done > 0 ? kSome : kBusy, done};
    case EEXIST:
      return Userfaultfd::Outcome{kAlreadyThere, done};
    case ENOENT:
      return Userfaultfd::Outcome{kNoSuchRange, done};
    case ESRCH:
      return Userfaultfd::Outcome{kProcessGone, done};
    default:
      return sys_error(call);
  }
}

}  // namespace

Result<Userfaultfd> Userfaultfd::open(std::uint64_t features) {
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
  api.features = features;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return sys_error("UFFDIO_API");
  Userfaultfd opened(std::move(fd));
  opened.offered_ = api.features;
  return opened;
}

Result<Userfaultfd> Userfaultfd::adopt(Fd fd) {
  char target[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd.get());
  if (::readlink(link.c_str(), target, sizeof target - 1) < 0) return sys_error("readlink", link);
  if (std::string_view(target) != "anon_inode:[userfaultfd]") {
    return fail(Code::kInvalid, "a descriptor that is no userfaultfd but " + std::string(target));
  }
  return Userfaultfd(std::move(fd));
}

Result<Userfaultfd> Userfaultfd::duplicate() const {
  Fd copy{::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)};
  if (!copy.valid()) return sys_error("dup userfaultfd");
  Userfaultfd duplicate(std::move(copy));
  duplicate.offered_ = offered_;
  return duplicate;
}

Result<> Userfaultfd::register_for(std::span<std::byte> range, std::uint64_t mode) {
  uffdio_register request = {};
  request.range = range_of(range);
  request.mode = mode;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) return sys_error("UFFDIO_REGISTER");
  return {};
}

Result<> Userfaultfd::register_missing(std::span<std::byte> range) {
  return register_for(range, UFFDIO_REGISTER_MODE_MISSING);
}

Result<> Userfaultfd::register_missing_and_minor(std::span<std::byte> range) {
  return register_for(range, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

Result<Userfaultfd::Outcome> Userfaultfd::copy(std::byte* to, std::span<const std::byte> from,
                                               Wake wake) {
  uffdio_copy request = {};
  request.dst = reinterpret_cast<std::uintptr_t>(to);
  request.src = reinterpret_cast<std::uintptr_t>(from.data());
  request.len = from.size();
  request.mode = wake == Wake::kYes ? 0 : UFFDIO_COPY_MODE_DONTWAKE;
  const int returned = ::ioctl(fd_.get(), UFFDIO_COPY, &request);
  return outcome(returned, request.copy, from.size(), "UFFDIO_COPY");
}

Result<Userfaultfd::Outcome> Userfaultfd::resume(std::span<std::byte> range, Wake wake) {
  uffdio_continue request = {};
  request.range = range_of(range);
  request.mode = wake == Wake::kYes ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE;
  const int returned = ::ioctl(fd_.get(), UFFDIO_CONTINUE, &request);
  return outcome(returned, request.mapped, range.size(), "UFFDIO_CONTINUE");
}

Result<Userfaultfd::Outcome> Userfaultfd::zero(std::span<std::byte> range, Wake wake) {
  uffdio_zeropage request = {};
  request.range = range_of(range);
  request.mode = wake == Wake::kYes ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  const int returned = ::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &request);
  return outcome(returned, request.zeropage, range.size(), "UFFDIO_ZEROPAGE");
}

Result<Userfaultfd::Outcome> Userfaultfd::poison(std::span<std::byte> range, Wake wake) {
  abi::Poison request = {};
  request.range = range_of(range);
  request.mode = wake == Wake::kYes ? 0 : abi::kPoisonDontWake;
  const int returned = ::ioctl(fd_.get(), abi::kPoison, &request);
  return outcome(returned, request.updated, range.size(), "UFFDIO_POISON");
}

Result<> Userfaultfd::wake(std::span<std::byte> range) {
  uffdio_range request = range_of(range);
  if (::ioctl(fd_.get(), UFFDIO_WAKE, &request) != 0) return sys_error("UFFDIO_WAKE");
  return {};
}

Result<std::size_t> Userfaultfd::read_messages(std::span<uffd_msg> into) {
  // Whoever holds another descriptor of it may make it block, between our look and our read.
  const iovec part = {.iov_base = into.data(), .iov_len = into.size_bytes()};
  ssize_t got = ::preadv2(fd_.get(), &part, 1, -1, RWF_NOWAIT);
  if (got < 0 && errno == EOPNOTSUPP) {  // before Linux 6.10
    got = ::read(fd_.get(), into.data(), into.size_bytes());
  }
  if (got >= 0) return static_cast<std::size_t>(got) / sizeof(uffd_msg);
  if (errno == EAGAIN || errno == EINTR) return std::size_t{0};
  return sys_error("read userfaultfd");
}

}  // namespace volt::uffd
