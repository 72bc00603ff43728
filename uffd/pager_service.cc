#include "uffd/pager_service.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "uffd/firecracker.h"

namespace volt::uffd {
namespace {

using pager::Inbox;
using pager::Mode;
using pager::now_ms;

constexpr std::uint64_t kListenerKey = 1;
constexpr std::uint64_t kPauseMs = 100;
constexpr int kEmptyReads = 5;
constexpr int kForEver = -1;

// What a dead pager left. Anything else at the path is left alone.
Result<> clear_path(const std::string& path) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) return {};
  if (!S_ISSOCK(info.st_mode)) return fail(Code::kConflict, path + " is there, and no socket");
  if (const Result<Fd> live = pager::connect_to(path);
      live || live.error().code != Code::kNotFound) {
    return fail(Code::kConflict, "another program listens at " + path);
  }
  if (::unlink(path.c_str()) != 0) return sys_error("unlink", path);
  return {};
}

CloneOptions::Kind kind_of(Mode mode) {
  switch (mode) {
    case Mode::kShared:
      return CloneOptions::Kind::kShared;
    case Mode::kIsolated:
      return CloneOptions::Kind::kIsolated;
    case Mode::kCopied:
      break;
  }
  return CloneOptions::Kind::kForeign;
}

}  // namespace

// A file that was removed while we waited for it is no lock.
Result<PagerService::SocketLock> PagerService::SocketLock::take(const std::string& path) {
  const std::string name = path + ".lock";
  for (;;) {
    Fd file{::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (!file.valid()) return sys_error("open", name);
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return sys_error("flock", name);
      return fail(Code::kConflict, "another pager serves " + path);
    }
    struct stat info;
    if (::fstat(file.get(), &info) == 0 && info.st_nlink > 0) {
      return SocketLock(std::move(file), name);
    }
  }
}

PagerService::SocketLock::~SocketLock() {
  if (file_.valid()) ::unlink(name_.c_str());
}

void PagerService::Line::tell(const pager::Message& message) {
  const std::lock_guard lock(mutex);
  // One that does not read what it is told is told nothing more; the loop sees it go.
  if (!pager::send(socket.get(), message)) ::shutdown(socket.get(), SHUT_RDWR);
}

Result<std::unique_ptr<PagerService>> PagerService::start(Options options) {
  VOLT_TRY(pager::check_path(options.path));  // or the lock would be all that is made
  SocketLock lock = VOLT_TRY(SocketLock::take(options.path));
  VOLT_TRY(clear_path(options.path));
  Fd listener = VOLT_TRY(pager::listen_at(options.path));
  const int fd = listener.get();
  std::unique_ptr<PagerService> service(
      new PagerService(std::move(options), std::move(lock), std::move(listener)));
  PagerService* const raw = service.get();
  service->loop_ = VOLT_TRY(ReadyLoop::start(
      {.on_ready = [raw](std::uint64_t key, ReadyLoop::Ready) { raw->on_ready(key); },
       .before_sleep = [raw] { return raw->before_sleep(); }}));
  VOLT_TRY(service->loop_->watch(fd, kListenerKey));
  return service;
}

PagerService::~PagerService() {
  if (loop_ != nullptr) loop_->stop();
  ::unlink(options_.path.c_str());
  listener_ = Fd();
  for (const auto& [key, connection] : connections_) {
    if (connection->clone) connection->image->server->detach(*connection->clone);
  }
  connections_.clear();
}

void PagerService::on_ready(std::uint64_t key) {
  key == kListenerKey ? accept_all() : hear(key);
}

int PagerService::before_sleep() {
  std::uint64_t sleep_ms = UINT64_MAX;
  if (paused_) {
    paused_ = !loop_->watch(listener_.get(), kListenerKey).has_value();
    accept_all();
    if (paused_) sleep_ms = kPauseMs;
  }
  const std::uint64_t now = now_ms();
  const std::set<std::uint64_t> pending = pending_;
  for (const std::uint64_t key : pending) {
    Connection& connection = *connections_.at(key);
    const std::uint64_t waited = now - connection.since_ms;
    if (waited >= options_.hello_deadline_ms) {
      drop(key, Error{Code::kDeadline, 0, "it did not say what it wants"});
      continue;
    }
    sleep_ms = std::min(sleep_ms, options_.hello_deadline_ms - waited);
    if (connection.empty_reads > 0) {  // not watched meanwhile
      sleep_ms = std::min(sleep_ms, kPauseMs);
      hear(key);
    }
  }
  return sleep_ms == UINT64_MAX ? kForEver : static_cast<int>(sleep_ms);
}

void PagerService::accept_all() {
  for (;;) {
    Fd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (!socket.valid()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        loop_->ignore(listener_.get());
        paused_ = true;
      }
      return;
    }
    accept_one(std::move(socket));
  }
}

void PagerService::accept_one(Fd socket) {
  auto connection = std::make_unique<Connection>();
  const Result<pager::Peer> peer = pager::peer_of(socket.get());
  if (!peer) return;
  connection->peer = *peer;
  connection->since_ms = now_ms();
  connection->line = std::make_shared<Line>();
  if (!options_.may_poison) {
    connection->line->process = Fd{static_cast<int>(::syscall(SYS_pidfd_open, peer->pid, 0))};
  }
  const std::uint64_t key = next_key_++;
  if (!loop_->watch(socket.get(), key)) return;
  connection->line->socket = std::move(socket);
  connections_.emplace(key, std::move(connection));
  pending_.insert(key);
  ++connected_;
}

void PagerService::hear(std::uint64_t key) {
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;
  Connection& connection = *found->second;
  Result<> heard = read_all(connection, key);
  if (!heard) return drop(key, std::move(heard).error());
  if (connection.state == Connection::State::kServed) pending_.erase(key);
}

Result<> PagerService::read_all(Connection& connection, std::uint64_t key) {
  const int socket = connection.line->socket.get();
  const Inbox::Got got = VOLT_TRY(connection.inbox.read(socket));
  if (got == Inbox::Got::kNothing) return {};
  const bool fresh = connection.state == Connection::State::kHello;
  if (got == Inbox::Got::kEnd) {
    // Firecracker's first message has been seen to come after an empty one.
    const bool again = options_.firecracker_image && fresh && connection.inbox.bytes().empty() &&
                       connection.empty_reads < kEmptyReads;
    if (!again) return fail(Code::kNotFound, "");
    if (connection.empty_reads++ == 0) loop_->ignore(socket);
    return {};
  }
  if (connection.silent) {  // it has said all there is to say
    connection.inbox = {};
    return {};
  }
  if (connection.empty_reads > 0) VOLT_TRY(loop_->watch(socket, key));
  connection.empty_reads = 0;
  const std::span<const std::byte> bytes = connection.inbox.bytes();
  if (fresh && options_.firecracker_image && !bytes.empty() && bytes[0] == std::byte{'['}) {
    return attach_firecracker(connection);
  }
  for (;;) {
    auto received = VOLT_TRY(connection.inbox.take());
    if (!received) return {};
    VOLT_TRY(take(connection, *std::move(received)));
  }
}

Result<> PagerService::take(Connection& connection, Inbox::Received received) {
  using enum Connection::State;
  const pager::Message& message = received.message;
  const int socket = connection.line->socket.get();
  if (const auto* hello = std::get_if<pager::Hello>(&message);
      hello != nullptr && connection.state == kHello) {
    return greet(connection, *hello);
  }
  if (std::holds_alternative<pager::AskStats>(message) && connection.state == kHello) {
    const std::string json = options_.stats == nullptr ? "{}" : options_.stats();
    return pager::send(socket, pager::Stats{json});
  }
  if (const auto* asked = std::get_if<pager::Attach>(&message);
      asked != nullptr && connection.state == kAttach) {
    Result<> attached = attach(connection, asked->views, std::move(received.fds[0]));
    if (attached) return pager::send(socket, pager::Attached{});
    connection.line->tell(pager::Refused{attached.error().code, attached.error().context});
    return attached;
  }
  if (std::holds_alternative<pager::Ping>(message) && connection.state == kServed) {
    if (connection.line->pinged.exchange(true)) return {};  // one answer for both
    connection.image->server->echo([line = connection.line] {
      line->pinged = false;
      line->tell(pager::Pong{});
    });
    return {};
  }
  if (std::holds_alternative<pager::Forget>(message) && connection.state == kServed) {
    connection.image->server->forget(*connection.clone);
    connection.state = kForgotten;
    connection.line->tell(pager::Forgotten{});
    return {};
  }
  return fail(Code::kCorrupt, "pager message: type: not now");
}

Result<> PagerService::greet(Connection& connection, const pager::Hello& hello) {
  const int socket = connection.line->socket.get();
  const auto refuse = [&](const Error& error) -> Result<> {
    connection.line->tell(pager::Refused{error.code, error.context});
    return std::unexpected(error);
  };
  if (hello.mode == Mode::kShared && connection.peer.uid != ::geteuid()) {
    return refuse({Code::kInvalid, 0,
                   "VMs of another user than the pager's share its image only with "
                   "--isolate-image"});
  }
  Result<std::shared_ptr<ServedImage>> image = options_.open(hello.image);
  if (!image) return refuse(image.error());
  if (const std::uint64_t ms = (*image)->server->echo_waits_ms(); ms >= options_.stuck_ms) {
    return refuse({Code::kPageLost, 0,
                   "a thread that answers faults of this image has been stuck for " +
                       std::to_string(ms) + " ms"});
  }
  connection.image = *std::move(image);
  connection.mode = hello.mode;
  connection.state = Connection::State::kAttach;
  const ServedImage& served = *connection.image;
  const int fds[] = {served.documents.get(), served.server->image_fd()};
  // A VM that gets copies has no use for the image, and no business with it.
  const std::size_t count = hello.mode == Mode::kCopied ? 1 : 2;
  return pager::send(socket,
                     pager::Welcome{.image_bytes = served.image_bytes,
                                    .unit_bytes = served.unit_bytes,
                                    .document_bytes = served.document_bytes,
                                    .image = served.name},
                     std::span(fds).first(count));
}

Result<> PagerService::attach(Connection& connection, std::span<const pager::WireView> views,
                              Fd uffd) {
  const ServedImage& image = *connection.image;
  std::vector<View> checked =
      VOLT_TRY(pager::checked_views(views, image.image_bytes, image.unit_bytes));
  Userfaultfd adopted = VOLT_TRY(Userfaultfd::adopt(std::move(uffd)));
  const std::shared_ptr<Line> line = connection.line;
  CloneOptions options = {
      .kind = kind_of(connection.mode),
      .home = CloneOptions::Home::kAnotherProcess,
      .on_lost = [line](std::uint64_t unit) { line->tell(pager::Close{unit}); },
      .on_failing = [line](std::uint64_t unit,
                           const Error& why) { line->tell(pager::Lost{unit, why.context}); }};
  connection.clone =
      VOLT_TRY(image.server->attach(std::move(adopted), std::move(checked), std::move(options)));
  connection.state = Connection::State::kServed;
  return {};
}

// Nothing can be told to such a VM. One that needs a unit which cannot be had is stopped by poison;
// where the kernel has none, as a whole.
Result<> PagerService::attach_firecracker(Connection& connection) {
  const auto regions = VOLT_TRY(firecracker::decode(connection.inbox.bytes()));
  if (!regions) return {};
  std::vector<Fd> fds = connection.inbox.take_fds();
  if (fds.size() != 1) return fail(Code::kCorrupt, "firecracker hand-shake: not one descriptor");
  connection.image = VOLT_TRY(options_.open(*options_.firecracker_image));
  const ServedImage& image = *connection.image;
  std::uint64_t total = 0;
  for (const pager::WireView& region : *regions) {
    if (__builtin_add_overflow(total, region.bytes, &total)) total = UINT64_MAX;
  }
  if (total != image.image_bytes) {
    return fail(Code::kInvalid, "firecracker hand-shake: size: regions of " +
                                    std::to_string(total) + " bytes, the snapshot has " +
                                    std::to_string(image.image_bytes));
  }
  std::vector<View> checked =
      VOLT_TRY(pager::checked_views(*regions, image.image_bytes, image.unit_bytes));
  Userfaultfd adopted = VOLT_TRY(Userfaultfd::adopt(std::move(fds[0])));
  const std::shared_ptr<Line> line = connection.line;
  CloneOptions options = {.kind = CloneOptions::Kind::kForeign,
                          .home = CloneOptions::Home::kAnotherProcess,
                          .on_lost = [line](std::uint64_t) {
                            ::syscall(SYS_pidfd_send_signal, line->process.get(), SIGKILL, nullptr,
                                      0);
                          }};
  connection.clone =
      VOLT_TRY(image.server->attach(std::move(adopted), std::move(checked), std::move(options)));
  connection.state = Connection::State::kServed;
  connection.silent = true;
  connection.inbox = {};
  return {};
}

void PagerService::drop(std::uint64_t key, const std::optional<Error>& why) {
  const auto found = connections_.find(key);
  Connection& connection = *found->second;
  loop_->ignore(connection.line->socket.get());
  if (connection.clone) connection.image->server->detach(*connection.clone);
  if (why && !why->context.empty() && options_.log != nullptr) {
    options_.log("process " + std::to_string(connection.peer.pid) + ": " + why->context);
  }
  ::shutdown(connection.line->socket.get(), SHUT_RDWR);
  pending_.erase(key);
  connections_.erase(found);
  --connected_;
}

}  // namespace volt::uffd
