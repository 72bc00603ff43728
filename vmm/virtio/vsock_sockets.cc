#include "vmm/virtio/vsock_sockets.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "vmm/file_lock.h"

namespace volt::virtio {
namespace {

constexpr std::string_view kLongestSuffix = "_4294967295";

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.contains('\0')) {
    return fail(Code::kInvalid, "socket path " + path + " is none, or too long");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return static_cast<const sockaddr*>(static_cast<const void*>(&address));
}

Result<Fd> stream() {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return sys_error("socket");
  return socket;
}

// Those that take a name over in one directory do it in turns, so that none takes it from another
// that has just done so. Somebody else may have use for that lock, too, and keep it.
Result<Fd> lock_directory_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent;
  Fd lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.valid()) return sys_error("open", directory);
  const bool locked = VOLT_TRY_IN(directory, vmm::lock_soon(lock, LOCK_EX));
  if (!locked) return fail(Code::kBusy, directory + " is locked by another process");
  return lock;
}

enum class There { kNothing, kLeft, kListener, kOther };

// What is at a path: kLeft is a socket that a killed process left.
There what_is_at(const std::string& path) {
  std::error_code unknown;
  const auto status = std::filesystem::symlink_status(path, unknown);
  if (status.type() == std::filesystem::file_type::not_found) return There::kNothing;
  if (!std::filesystem::is_socket(status)) return There::kOther;
  const Result<Fd> live = connect_to_path(path);
  if (live) return There::kListener;
  switch (live.error().sys_errno) {
    case ECONNREFUSED:
      return There::kLeft;
    case ENOENT:
      return There::kNothing;
    case EAGAIN:  // more wait for it than it takes
      return There::kListener;
    default:
      return There::kOther;
  }
}

// A socket that listens already gets its name, unless something else has it that is in use.
Result<> give_name(const std::string& draft, const std::string& path) {
  if (::link(draft.c_str(), path.c_str()) == 0) return {};
  if (errno != EEXIST) return sys_error("link", path);
  const Fd lock = VOLT_TRY(lock_directory_of(path));
  switch (what_is_at(path)) {
    case There::kListener:
      return fail(Code::kConflict, "somebody listens at " + path);
    case There::kOther:
      return fail(Code::kConflict, path + " exists");
    case There::kNothing:  // not by rename(2): somebody may be quicker once more
      if (::link(draft.c_str(), path.c_str()) != 0) return sys_error("link", path);
      break;
    case There::kLeft:
      if (::rename(draft.c_str(), path.c_str()) != 0) return sys_error("rename", path);
  }
  return {};
}

// No port has such a name (PATH_<port>), and it is no longer than the longest of those.
Result<std::string> draft_name(const std::string& path) {
  std::uint32_t number;
  if (::getrandom(&number, sizeof number, 0) != sizeof number) return sys_error("getrandom");
  char suffix[16];
  std::snprintf(suffix, sizeof suffix, "~%08x", number);
  return path + suffix;
}

}  // namespace

PathListener::Name::~Name() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<PathListener> PathListener::bind(const std::string& path) {
  VOLT_TRY(address_of(path + std::string(kLongestSuffix)));
  Fd socket = VOLT_TRY(stream());
  Fd spare(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!spare.valid()) return sys_error("open", "/dev/null");
  const std::string draft = VOLT_TRY(draft_name(path));
  const sockaddr_un address = VOLT_TRY(address_of(draft));
  if (::bind(socket.get(), generic(address), sizeof address) != 0) return sys_error("bind", path);
  const Name gone(draft);
  if (::listen(socket.get(), SOMAXCONN) != 0) return sys_error("listen", path);
  VOLT_TRY(give_name(draft, path));
  Name name(path);
  return PathListener(std::move(socket), std::move(spare), std::move(name));
}

Fd PathListener::accept() {
  for (;;) {
    Fd taken(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (taken.valid()) return taken;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if ((errno != EMFILE && errno != ENFILE) || !spare_.valid()) return {};
    spare_ = Fd();
    const bool nobody =
        !Fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid();  // closed again
    spare_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (nobody) return {};
  }
}

Result<Fd> connect_to_path(const std::string& path) {
  const sockaddr_un address = VOLT_TRY(address_of(path));
  Fd socket = VOLT_TRY(stream());
  // A unix socket connects at once or not at all.
  if (::connect(socket.get(), generic(address), sizeof address) != 0) {
    return sys_error("connect", path);
  }
  return socket;
}

Result<std::pair<Fd, Fd>> socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return sys_error("socketpair");
  }
  Fd first(ends[0]);
  Fd second(ends[1]);
  if (::fcntl(first.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("fcntl");
  return std::pair(std::move(first), std::move(second));
}

}  // namespace volt::virtio
