#include "vmm/virtio/vsock_mux.h"

#include <sys/epoll.h>

#include <algorithm>

namespace volt::virtio {
namespace {

constexpr std::uint64_t kListenerKey = VsockMux::kFirstKey;
constexpr std::uint32_t kFirstHostPort = 0x4000'0000;
constexpr std::uint32_t kHostPorts = 0x4000'0000;
constexpr std::size_t kMaxPayload = 64 << 10;
constexpr int kPacketsPerTurn = 64;
// A guest that is owed more answers than this has to take some before it is listened to again.
constexpr std::size_t kMaxRefusals = 256;

Result<> watch(const Fd& epoll, int fd, std::uint64_t key, std::uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = key;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return sys_error("epoll_ctl");
  return {};
}

}  // namespace

// 0 and 1 are reserved, 2 is the host, and the last means any.
Result<> VsockMux::check_cid(std::uint32_t cid) {
  if (cid > kHostCid && cid != UINT32_MAX) return {};
  return fail(Code::kInvalid, "vsock: guest CID " + std::to_string(cid));
}

Result<std::unique_ptr<VsockMux>> VsockMux::create(VsockOptions options, std::uint32_t first_port) {
  VOLT_TRY(check_cid(options.guest_cid));
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return sys_error("epoll_create1");
  std::optional<PathListener> listener;
  if (!options.path.empty()) {
    listener.emplace(VOLT_TRY_IN("vsock", PathListener::bind(options.path)));
    VOLT_TRY(watch(epoll, listener->fd(), kListenerKey, EPOLLIN | EPOLLET));
  }
  std::unique_ptr<VsockMux> mux(
      new VsockMux(std::move(options), std::move(epoll), std::move(listener), first_port));
  mux->payload_.resize(kMaxPayload);
  return mux;
}

// ---- The host's side

void VsockMux::on_event(std::uint64_t key, std::uint32_t events) {
  if (key == kListenerKey) return accept_host();
  const auto found = connections_.find(key);
  if (found == connections_.end()) return;  // forgotten since
  VsockConnection& connection = found->second.connection;
  connection.on_socket(events);
  if (connection.stage() == VsockConnection::Stage::kGreeting && !connection.over()) {
    const std::optional<std::uint32_t> port = connection.greeting();
    if (port && !connection.over()) {
      const Ports ports = new_ports(*port);
      connection.request(ports);
      by_ports_[ports] = key;
      found->second.by_ports = true;
    }
  }
  settle(key);
}

void VsockMux::accept_host() {
  for (Fd socket = listener_->accept(); socket.valid(); socket = listener_->accept()) {
    // A program that is not welcome sees the end of its stream, as when the guest refuses it.
    if (!open_ || !make_room()) continue;
    static_cast<void>(add(VsockConnection::greeted(std::move(socket))));
  }
}

Result<Fd> VsockMux::connect(std::uint32_t guest_port) {
  if (!open_) return fail(Code::kBusy, "vsock: the guest has no driver for it yet");
  if (!make_room()) return fail(Code::kBusy, "vsock: too many connections");
  auto [ours, theirs] = VOLT_TRY(socket_pair());
  VOLT_TRY(add(VsockConnection::requested(std::move(ours), new_ports(guest_port))));
  return std::move(theirs);
}

void VsockMux::listen(std::uint32_t port, VsockHandler handler) {
  handlers_.insert_or_assign(port, std::move(handler));
}

VsockMux::Ports VsockMux::new_ports(std::uint32_t guest_port) {
  for (;;) {
    const Ports ports = {.host = kFirstHostPort + next_port_++ % kHostPorts, .guest = guest_port};
    if (!by_ports_.contains(ports)) return ports;
  }
}

// ---- The table

// A place for one more. Those that only wait for the guest to notice their end may go.
bool VsockMux::make_room() {
  while (connections_.size() >= options_.max_connections) {
    if (leaving_.empty()) return false;
    forget(leaving_.front());  // the guest finds out by an RST, if it ever sends anything
  }
  return true;
}

Result<> VsockMux::add(VsockConnection connection) {
  const std::uint64_t key = next_key_++;
  VOLT_TRY(watch(epoll_, connection.socket(), key, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET));
  const bool known = connection.stage() != VsockConnection::Stage::kGreeting;
  if (known) by_ports_[connection.ports()] = key;
  connections_.emplace(key, Entry{.connection = std::move(connection), .by_ports = known});
  settle(key);
  return {};
}

// Whatever happened to a connection: it is where it belongs.
void VsockMux::settle(std::uint64_t key) {
  Entry& entry = connections_.at(key);
  const VsockConnection& connection = entry.connection;
  if (connection.over()) return forget(key);
  if (connection.orphan() && entry.by_ports) {
    by_ports_.erase(connection.ports());
    entry.by_ports = false;
  }
  const bool leaves = connection.orphan() || connection.stage() == VsockConnection::Stage::kClosed;
  if (leaves && !entry.leaving) leaving_.push_back(key);
  entry.leaving = entry.leaving || leaves;
  if (!entry.queued && connection.wants_to_tell()) {
    ready_.push_back(key);
    entry.queued = true;
  }
}

void VsockMux::forget(std::uint64_t key) {
  const Entry& entry = connections_.at(key);
  if (entry.by_ports) by_ports_.erase(entry.connection.ports());
  if (entry.leaving) std::erase(leaving_, key);
  if (entry.queued) std::erase(ready_, key);
  connections_.erase(key);
}

void VsockMux::drop_connections() {
  connections_.clear();
  by_ports_.clear();
  ready_.clear();
  leaving_.clear();
  refusals_.clear();
  handovers_.clear();
}

void VsockMux::set_open(bool open) {
  drop_connections();
  reset_ = Reset::kNone;
  unseen_ = {};
  open_ = open;
}

void VsockMux::announce_reset() {
  drop_connections();
  if (open_) reset_ = Reset::kToTell;
}

void VsockMux::set_unseen(Unseen unseen) {
  unseen_ = unseen;
  if (open_ && unseen.resets != 0) reset_ = Reset::kTold;
}

// ---- The guest's side

Result<bool> VsockMux::work(Port& port) {
  if (!port.running()) return false;
  VOLT_TRY(tell_reset(port));
  const bool taken = VOLT_TRY(take_from_guest(port));
  const bool given = VOLT_TRY(give_to_guest(port));
  return taken || given;
}

Result<> VsockMux::tell_reset(Port& port) {
  Queue& queue = port.queue(kEvents);
  if (!queue.ready()) reset_ = Reset::kNone;  // a driver that does not want to know
  if (reset_ == Reset::kNone) return {};
  const std::uint16_t published = VOLT_TRY(queue.published());
  if (reset_ == Reset::kTold) {
    const auto put_back = static_cast<std::uint16_t>(published - unseen_.published);
    if (put_back < unseen_.resets) return {};
    reset_ = Reset::kNone;
    unseen_ = {};
    return {};
  }
  Chain chain;
  const bool popped = VOLT_TRY(queue.pop(chain));
  if (!popped) return {};
  const virtio_vsock_event event = {.id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
  VOLT_TRY(queue.write(chain, 0, std::as_bytes(std::span(&event, 1))));
  VOLT_TRY(queue.push(chain, sizeof event));
  if (unseen_.resets == 0) unseen_.published = published;
  ++unseen_.resets;
  reset_ = Reset::kTold;
  return port.interrupt(kEvents);
}

Result<bool> VsockMux::take_from_guest(Port& port) {
  Queue& queue = port.queue(kFromGuest);
  Chain chain;
  bool any = false;
  for (int i = 0; i < kPacketsPerTurn && refusals_.size() < kMaxRefusals; ++i) {
    const bool popped = VOLT_TRY(queue.pop(chain));
    if (!popped) break;
    VOLT_TRY(take_packet(queue, chain));
    VOLT_TRY(queue.push(chain, 0));
    any = true;
  }
  if (any) VOLT_TRY(port.interrupt(kFromGuest));
  return any;
}

Result<> VsockMux::take_packet(Queue& queue, const Chain& chain) {
  PacketHeadBytes bytes;
  VOLT_TRY(queue.read(chain, 0, bytes));
  PacketHead head = decode(bytes);
  const bool has_data = head.op == VIRTIO_VSOCK_OP_RW;
  const std::uint64_t there = chain.readable_bytes - kPacketHeadBytes;
  if (has_data && (head.bytes > there || head.bytes > kMaxPayload)) {
    head.op = VIRTIO_VSOCK_OP_INVALID;
  }
  const bool reads = head.op == VIRTIO_VSOCK_OP_RW;
  const std::span<std::byte> payload = std::span(payload_).first(reads ? head.bytes : 0);
  VOLT_TRY(queue.read(chain, kPacketHeadBytes, payload));
  dispatch(head, payload);
  return {};
}

void VsockMux::dispatch(const PacketHead& head, std::span<const std::byte> payload) {
  if (head.source_cid != options_.guest_cid) return;  // it is not the one who sends this
  if (head.target_cid != kHostCid || head.type != VIRTIO_VSOCK_TYPE_STREAM) return refuse(head);
  const auto found = by_ports_.find({.host = head.target_port, .guest = head.source_port});
  if (found == by_ports_.end()) {
    return head.op == VIRTIO_VSOCK_OP_REQUEST ? open_from_guest(head) : refuse(head);
  }
  const std::uint64_t key = found->second;
  VsockConnection& connection = connections_.at(key).connection;
  connection.heard(head);
  switch (head.op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
      connection.guest_accepts();
      break;
    case VIRTIO_VSOCK_OP_RST:
      connection.guest_resets();
      break;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      connection.guest_shuts(head.flags);
      break;
    case VIRTIO_VSOCK_OP_RW:
      connection.guest_sends(payload);
      break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      connection.guest_asks_for_credit();
      break;
    default:
      connection.reset();
  }
  settle(key);
}

void VsockMux::refuse(const PacketHead& head) {
  if (head.op != VIRTIO_VSOCK_OP_RST) refusals_.push_back(head);
}

void VsockMux::open_from_guest(const PacketHead& head) {
  if (!make_room()) return refuse(head);
  Result<Fd> socket = reach_host(head.target_port);
  if (!socket || !add(VsockConnection::accepted(std::move(*socket), head))) refuse(head);
}

Result<Fd> VsockMux::reach_host(std::uint32_t port) {
  const auto handler = handlers_.find(port);
  if (handler == handlers_.end()) {
    if (!listener_) return fail(Code::kNotFound, "vsock: nobody listens");
    return connect_to_path(options_.path + "_" + std::to_string(port));
  }
  auto [ours, theirs] = VOLT_TRY(socket_pair());
  handovers_.push_back({handler->second, std::move(theirs)});
  return std::move(ours);
}

Result<bool> VsockMux::give_to_guest(Port& port) {
  if (reset_ != Reset::kNone) return false;
  Queue& queue = port.queue(kToGuest);
  Chain chain;
  bool any = false;
  for (int i = 0; i < kPacketsPerTurn && !(refusals_.empty() && ready_.empty()); ++i) {
    const bool popped = VOLT_TRY(queue.pop(chain));
    if (!popped) break;
    if (chain.writable_bytes < kPacketHeadBytes) return malformed("no room for a packet's head");
    const std::optional<PacketHead> head = next_packet(chain.writable_bytes - kPacketHeadBytes);
    if (!head) {
      queue.put_back();
      break;
    }
    VOLT_TRY(queue.write(chain, 0, encode(*head)));
    VOLT_TRY(queue.write(chain, kPacketHeadBytes, std::span(payload_).first(head->bytes)));
    VOLT_TRY(queue.push(chain, static_cast<std::uint32_t>(kPacketHeadBytes) + head->bytes));
    any = true;
  }
  if (any) VOLT_TRY(port.interrupt(kToGuest));
  return any;
}

std::optional<PacketHead> VsockMux::next_packet(std::size_t room) {
  PacketHead head = {.source_cid = kHostCid, .target_cid = options_.guest_cid};
  head.op = VIRTIO_VSOCK_OP_RST;
  if (!refusals_.empty()) {
    const PacketHead& refused = refusals_.front();
    head.source_cid = refused.target_cid;
    head.source_port = refused.target_port;
    head.target_port = refused.source_port;
    head.type = refused.type;
    refusals_.pop_front();
    return head;
  }
  // Once round: who has data keeps its place while a buffer has room for nothing but a head.
  for (std::size_t left = ready_.size(); left > 0; --left) {
    const std::uint64_t key = ready_.front();
    ready_.pop_front();
    Entry& entry = connections_.at(key);
    entry.queued = false;
    VsockConnection& connection = entry.connection;
    const std::optional<VsockConnection::Packet> packet =
        connection.tell(std::span(payload_).first(std::min(room, payload_.size())));
    if (packet) {
      head.source_port = connection.ports().host;
      head.target_port = connection.ports().guest;
      head.bytes = packet->bytes;
      head.op = packet->op;
      head.flags = packet->flags;
      head.window = VsockConnection::kWindowBytes;
      head.forwarded = connection.forwarded();
    }
    settle(key);
    if (packet) return head;
  }
  return {};
}

}  // namespace volt::virtio
