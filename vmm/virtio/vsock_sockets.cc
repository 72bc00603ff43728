#include "vmm/virtio/vsock_sockets.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

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

// Processes that bind in one directory take turns, so that none takes another's socket, not
// listened at yet, for one that was left.
Result<Fd> lock_directory_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent;
  Fd lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.valid()) return sys_error("open", directory);
  if (::flock(lock.get(), LOCK_EX) != 0) return sys_error("flock", directory);
  return lock;
}

// A socket that a killed process left at the path; whatever else is there stays.
bool was_left(const std::string& path) {
  std::error_code unknown;
  if (!std::filesystem::is_socket(std::filesystem::symlink_status(path, unknown))) return false;
  const Result<Fd> live = connect_to_path(path);
  return !live && live.error().sys_errno == ECONNREFUSED;
}

}  // namespace

PathListener::Name::~Name() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<PathListener> PathListener::bind(const std::string& path) {
  VOLT_TRY(address_of(path + std::string(kLongestSuffix)));
  const sockaddr_un address = VOLT_TRY(address_of(path));
  Fd socket = VOLT_TRY(stream());
  Fd spare(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!spare.valid()) return sys_error("open", "/dev/null");
  const Fd lock = VOLT_TRY(lock_directory_of(path));
  const auto bound = [&] { return ::bind(socket.get(), generic(address), sizeof address) == 0; };
  if (!bound()) {
    if (errno != EADDRINUSE) return sys_error("bind", path);
    if (!was_left(path)) return fail(Code::kConflict, path + " exists");
    if (::unlink(path.c_str()) != 0) return sys_error("unlink", path);
    if (!bound()) return sys_error("bind", path);
  }
  Name name(path);
  if (::listen(socket.get(), SOMAXCONN) != 0) return sys_error("listen", path);
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
