#include "vmm/virtio/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string_view>
#include <utility>

namespace volt::virtio {
namespace {

constexpr std::uint32_t kBoth = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;
constexpr std::string_view kConnect = "CONNECT ";
constexpr std::size_t kMaxGreeting = 32;

// "CONNECT <port>", nothing else.
std::optional<std::uint32_t> parse_greeting(std::string_view line) {
  if (!line.starts_with(kConnect)) return {};
  line.remove_prefix(kConnect.size());
  std::uint32_t port = 0;
  const auto [end, error] = std::from_chars(line.begin(), line.end(), port);
  if (error != std::errc() || end != line.end()) return {};
  return port;
}

bool try_again() {
  return errno == EAGAIN || errno == EINTR;
}

}  // namespace

VsockConnection VsockConnection::greeted(Fd socket) {
  VsockConnection made(std::move(socket), Stage::kGreeting, {}, 0);
  made.greets_ = true;
  return made;
}

VsockConnection VsockConnection::requested(Fd socket, Ports ports) {
  return VsockConnection(std::move(socket), Stage::kRequesting, ports, kOweRequest);
}

VsockConnection VsockConnection::accepted(Fd socket, const PacketHead& head) {
  VsockConnection made(std::move(socket), Stage::kOpen,
                       {.host = head.target_port, .guest = head.source_port}, kOweResponse);
  made.heard(head);
  return made;
}

// ---- From the host

void VsockConnection::on_socket(std::uint32_t events) {
  if ((events & EPOLLIN) != 0) readable_ = true;
  if ((events & EPOLLOUT) != 0) {
    writable_ = true;
    flush();
  }
  // Peer and socket both closed; there may still be something to read.
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) host_left();
  settle();
}

void VsockConnection::host_left() {
  host_gone_ = readable_ = true;
  passed_on(backlog_.size() - backlog_start_);
  backlog_.clear();
  backlog_start_ = 0;
  if (stage_ == Stage::kGreeting) over_ = true;
  if (stage_ == Stage::kRequesting) {
    if ((owed_ & kOweRequest) != 0) over_ = true;
    reset();
  }
  host_shut_ |= VIRTIO_VSOCK_SHUTDOWN_RCV;
  if (!may_read_host()) host_shut_ = kBoth;
}

std::optional<std::uint32_t> VsockConnection::greeting() {
  std::array<char, kMaxGreeting> text;
  const ssize_t got = ::recv(socket_.get(), text.data(), text.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && try_again()) return {};
  const std::string_view seen(text.data(), got < 0 ? 0 : static_cast<std::size_t>(got));
  const std::size_t end = seen.find('\n');
  const bool whole = end != std::string_view::npos;
  const std::optional<std::uint32_t> port =
      whole ? parse_greeting(seen.substr(0, end)) : std::nullopt;
  if (!whole && !seen.empty() && seen.size() < text.size()) return {};
  // What follows the line is for the guest and stays where it is.
  if (!port || ::recv(socket_.get(), text.data(), end + 1, MSG_DONTWAIT) < 0) over_ = true;
  return port;
}

void VsockConnection::request(Ports ports) {
  ports_ = ports;
  stage_ = Stage::kRequesting;
  owed_ |= kOweRequest;
}

// ---- From the guest

void VsockConnection::heard(const PacketHead& head) {
  guest_window_ = head.window;
  guest_forwarded_ = head.forwarded;
  if (credit() > 0) credit_asked_ = false;
}

void VsockConnection::guest_accepts() {
  if (stage_ != Stage::kRequesting || (owed_ & kOweRequest) != 0) return reset();
  stage_ = Stage::kOpen;
  if (!greets_) return;
  char line[24];
  const int bytes = std::snprintf(line, sizeof line, "OK %u\n", ports_.host);
  // The first bytes of a socket always have room; if nobody is there, epoll tells.
  static_cast<void>(
      ::send(socket_.get(), line, static_cast<std::size_t>(bytes), MSG_NOSIGNAL | MSG_DONTWAIT));
}

void VsockConnection::guest_sends(std::span<const std::byte> bytes) {
  if (stage_ == Stage::kClosed) return;
  const std::size_t waiting = backlog_.size() - backlog_start_;
  if (stage_ != Stage::kOpen || (guest_shut_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 ||
      bytes.size() > kWindowBytes - waiting) {
    return reset();
  }
  std::size_t done = waiting == 0 ? send_host(bytes) : 0;
  if (host_gone_) done = bytes.size();
  passed_on(done);
  const std::span<const std::byte> rest = bytes.subspan(done);
  // What is written already makes room, so that a window is all it ever holds.
  backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<std::ptrdiff_t>(backlog_start_));
  backlog_start_ = 0;
  backlog_.insert(backlog_.end(), rest.begin(), rest.end());
  settle();
}

void VsockConnection::guest_shuts(std::uint32_t flags) {
  guest_shut_ |= flags & kBoth;
  if (host_gone_ && !may_read_host()) host_shut_ = kBoth;
  if (stage_ == Stage::kClosed && guest_shut_ == kBoth) return reset();
  settle();
}

void VsockConnection::guest_resets() {
  // A guest that closes a socket forgets it after a while, though not all has been read yet.
  const bool draining = stage_ == Stage::kOpen && guest_shut_ == kBoth;
  orphan_ = draining;
  over_ = !draining;
}

void VsockConnection::reset() {
  close_host();
  owed_ = kOweReset;
}

// How much was written at once; a socket that cannot take anything any more takes all.
std::size_t VsockConnection::send_host(std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (writable_ && !host_gone_ && done < bytes.size()) {
    const ssize_t sent = ::send(socket_.get(), bytes.data() + done, bytes.size() - done,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      done += static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN) {
      writable_ = false;
    } else if (errno != EINTR) {  // its peer does not read any more
      host_shut_ |= VIRTIO_VSOCK_SHUTDOWN_RCV;
      return bytes.size();
    }
  }
  return done;
}

void VsockConnection::flush() {
  if (backlog_.empty()) return;
  const std::size_t done = send_host(std::span(backlog_).subspan(backlog_start_));
  backlog_start_ += done;
  passed_on(done);
  if (backlog_start_ == backlog_.size()) {
    backlog_ = {};
    backlog_start_ = 0;
  }
}

// A guest that is told of each quarter never waits for room that is there.
void VsockConnection::passed_on(std::size_t bytes) {
  forwarded_ += static_cast<std::uint32_t>(bytes);
  if (forwarded_ - forwarded_told_ >= kWindowBytes / 4) owed_ |= kOweCredit;
}

// What the guest has shut is shut here too, once all it sent before is written.
void VsockConnection::settle() {
  if (stage_ != Stage::kOpen || backlog_.size() > backlog_start_) return;
  if (guest_shut_ == kBoth) {
    over_ = orphan_;
    return reset();
  }
  // Once: shutting what is shut is an event of the socket all the same, and brings us here again.
  if (std::exchange(shut_here_, guest_shut_) == guest_shut_) return;
  if (guest_shut_ == VIRTIO_VSOCK_SHUTDOWN_SEND) ::shutdown(socket_.get(), SHUT_WR);
  if (guest_shut_ == VIRTIO_VSOCK_SHUTDOWN_RCV) ::shutdown(socket_.get(), SHUT_RD);
}

void VsockConnection::close_host() {
  stage_ = Stage::kClosed;
  socket_ = Fd();
  backlog_ = {};
  backlog_start_ = 0;
}

// ---- To the guest

std::uint32_t VsockConnection::credit() const {
  const std::uint32_t in_flight = sent_ - guest_forwarded_;
  return in_flight < guest_window_ ? guest_window_ - in_flight : 0;
}

bool VsockConnection::may_read_host() const {
  return stage_ == Stage::kOpen && readable_ && !host_done_ &&
         (guest_shut_ & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

bool VsockConnection::wants_to_tell() const {
  if (orphan_ || over_) return false;
  if (owed_ != 0) return true;
  if (stage_ != Stage::kOpen) return false;
  return host_shut_ != host_shut_told_ || (may_read_host() && (credit() > 0 || !credit_asked_));
}

bool VsockConnection::take_owed(Owed what) {
  const bool owed = (owed_ & what) != 0;
  owed_ &= ~unsigned{what};
  return owed;
}

std::optional<VsockConnection::Packet> VsockConnection::tell(std::span<std::byte> payload) {
  const std::optional<Packet> packet = next(payload);
  if (packet) forwarded_told_ = forwarded_;  // each packet says it
  return packet;
}

std::optional<VsockConnection::Packet> VsockConnection::next(std::span<std::byte> payload) {
  if (take_owed(kOweReset)) {
    over_ = true;
    return Packet{.op = VIRTIO_VSOCK_OP_RST, .flags = 0, .bytes = 0};
  }
  if (take_owed(kOweRequest)) return Packet{.op = VIRTIO_VSOCK_OP_REQUEST, .flags = 0, .bytes = 0};
  if (take_owed(kOweResponse)) {
    return Packet{.op = VIRTIO_VSOCK_OP_RESPONSE, .flags = 0, .bytes = 0};
  }
  const bool credit_owed = take_owed(kOweCredit);
  if (stage_ != Stage::kOpen) return {};
  if (const std::optional<Packet> read = read_host(payload)) return read;
  if (host_shut_ != host_shut_told_) {
    host_shut_told_ = host_shut_;
    if (host_shut_ == kBoth) close_host();
    return Packet{.op = VIRTIO_VSOCK_OP_SHUTDOWN, .flags = host_shut_told_, .bytes = 0};
  }
  if (!credit_owed) return {};
  return Packet{.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE, .flags = 0, .bytes = 0};
}

std::optional<VsockConnection::Packet> VsockConnection::read_host(std::span<std::byte> payload) {
  while (may_read_host()) {
    if (credit() == 0) {
      if (credit_asked_) return {};
      credit_asked_ = true;
      return Packet{.op = VIRTIO_VSOCK_OP_CREDIT_REQUEST, .flags = 0, .bytes = 0};
    }
    const std::size_t room = std::min<std::size_t>(payload.size(), credit());
    if (room == 0) return {};  // the guest's buffer has place for a head only
    const ssize_t got = ::recv(socket_.get(), payload.data(), room, MSG_DONTWAIT);
    if (got > 0) {
      sent_ += static_cast<std::uint32_t>(got);
      return Packet{.op = VIRTIO_VSOCK_OP_RW, .flags = 0, .bytes = static_cast<std::uint32_t>(got)};
    }
    if (got < 0 && errno == EINTR) continue;
    readable_ = false;
    if (got < 0 && errno == EAGAIN) return {};
    host_done_ = true;
    host_shut_ |= got < 0 || host_gone_ ? kBoth : std::uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND};
  }
  return {};
}

}  // namespace volt::virtio
