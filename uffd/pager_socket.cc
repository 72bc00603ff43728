#include "uffd/pager_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace volt::uffd::pager {
namespace {

constexpr std::size_t kReadBytes = 8 << 10;
constexpr int kBacklog = 4096;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(Code::kInvalid, "socket '" + path + "': a path of 1 to 107 bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<Fd> new_socket() {
  Fd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!socket.valid()) return sys_error("socket");
  return socket;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

std::uint64_t now_ms() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

Result<> check_path(const std::string& path) {
  VOLT_TRY(address_of(path));
  return {};
}

Result<Inbox::Got> Inbox::read(int socket) {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * (kMaxFds + 2))> control;
  const std::size_t before = bytes_.size();
  bytes_.resize(before + kReadBytes);
  iovec part = {.iov_base = bytes_.data() + before, .iov_len = kReadBytes};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const int code = errno;
  bytes_.resize(before + (got > 0 ? static_cast<std::size_t>(got) : 0));
  if (got < 0) {
    if (code == EAGAIN || code == EINTR) return Got::kNothing;
    if (code == ECONNRESET) return Got::kEnd;
    errno = code;
    return sys_error("recvmsg");
  }
  for (cmsghdr* at = CMSG_FIRSTHDR(&header); at != nullptr; at = CMSG_NXTHDR(&header, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
      fds_.emplace_back(fd);
    }
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0 || fds_.size() > kMaxFds) {
    return fail(Code::kCorrupt, "pager message: descriptors: more than it may bring, or than fit");
  }
  return got == 0 ? Got::kEnd : Got::kSomething;
}

Result<std::optional<Inbox::Received>> Inbox::take() {
  if (bytes_.size() < kHeadBytes) return std::nullopt;
  const Head head = VOLT_TRY(decode_head(bytes_));
  if (bytes_.size() - kHeadBytes < head.body_bytes) return std::nullopt;
  const std::span<const std::byte> body = std::span(bytes_).subspan(kHeadBytes, head.body_bytes);
  Message message = VOLT_TRY(decode_body(head, body));
  // They come with a message's first byte, so with its last they are here.
  if (fds_.size() < head.fds) {
    return fail(Code::kCorrupt, "pager message: descriptors: fewer than it says");
  }
  Received received = {std::move(message), {}};
  for (std::size_t i = 0; i < head.fds; ++i) received.fds.push_back(std::move(fds_[i]));
  fds_.erase(fds_.begin(), fds_.begin() + static_cast<std::ptrdiff_t>(head.fds));
  const auto used = static_cast<std::ptrdiff_t>(kHeadBytes + head.body_bytes);
  bytes_.erase(bytes_.begin(), bytes_.begin() + used);
  if (bytes_.empty() && !fds_.empty()) {
    return fail(Code::kCorrupt, "pager message: descriptors: more than it says");
  }
  return received;
}

Result<Fd> connect_to(const std::string& path) {
  const sockaddr_un address = VOLT_TRY(address_of(path));
  Fd socket = VOLT_TRY(new_socket());
  if (::connect(socket.get(), generic(address), sizeof address) == 0) return socket;
  Error error = sys_error("connect", path).error();
  if (error.sys_errno == ENOENT || error.sys_errno == ECONNREFUSED) error.code = Code::kNotFound;
  if (error.sys_errno == EAGAIN) error.code = Code::kBusy;
  return std::unexpected(std::move(error));
}

Result<Fd> listen_at(const std::string& path) {
  const sockaddr_un address = VOLT_TRY(address_of(path));
  Fd socket = VOLT_TRY(new_socket());
  if (::fchmod(socket.get(), 0600) != 0) return sys_error("fchmod socket");
  if (::bind(socket.get(), generic(address), sizeof address) != 0) return sys_error("bind", path);
  if (::chmod(path.c_str(), 0600) != 0) return sys_error("chmod", path);
  if (::listen(socket.get(), kBacklog) != 0) return sys_error("listen", path);
  return socket;
}

Result<> send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control = {};
  iovec part = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const at = CMSG_FIRSTHDR(&header);
    at->cmsg_level = SOL_SOCKET;
    at->cmsg_type = SCM_RIGHTS;
    at->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(at), fds.data(), fds.size_bytes());
  }
  const ssize_t sent = ::sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) return sys_error("sendmsg");
  if (static_cast<std::size_t>(sent) == bytes.size()) return {};
  return fail(Code::kBusy, "the other end does not read its messages");
}

Result<> send(int socket, const Message& message, std::span<const int> fds) {
  return send_bytes(socket, encode(message, fds.size()), fds);
}

Result<Inbox::Received> await(int socket, Inbox& inbox, std::uint64_t timeout_ms) {
  const std::uint64_t end = now_ms() + timeout_ms;
  for (;;) {
    auto received = VOLT_TRY(inbox.take());
    if (received) return *std::move(received);
    const std::uint64_t now = now_ms();
    if (now >= end) {
      return fail(Code::kDeadline, "no answer within " + std::to_string(timeout_ms) + " ms");
    }
    pollfd ready = {.fd = socket, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, static_cast<int>(end - now)) <= 0) continue;
    if (VOLT_TRY(inbox.read(socket)) == Inbox::Got::kEnd) {
      return fail(Code::kPageLost, "it closed the connection");
    }
  }
}

Result<Peer> peer_of(int socket) {
  ucred credentials = {};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return sys_error("SO_PEERCRED");
  }
  return Peer{credentials.pid, credentials.uid};
}

}  // namespace volt::uffd::pager
