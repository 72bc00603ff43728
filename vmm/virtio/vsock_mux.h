// All streams of a virtio-vsock device: which packet belongs to which, and whose turn it is. It
// neither blocks nor has a thread; its owner brings it events and gives it turns, one caller at a
// time (the device's lock).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/virtio/port.h"
#include "vmm/virtio/vsock_connection.h"
#include "vmm/virtio/vsock_sockets.h"

namespace volt::virtio {

struct VsockOptions {
  std::uint32_t guest_cid = 3;
  std::string path;  // of the socket for host programs; none if empty
  std::size_t max_connections = 1024;
};

// Gets its end of a stream that the guest opened. On the device's thread, so that it must hand the
// work on; it may call the device.
using VsockHandler = std::function<void(Fd socket)>;

class VsockMux {
 public:
  enum QueueNumber : std::size_t { kToGuest = 0, kFromGuest = 1, kEvents = 2 };
  // Descriptors are watched by numbers from here on; those below are the owner's.
  static constexpr std::uint64_t kFirstKey = 16;

  struct Handover {
    VsockHandler handler;
    Fd socket;
  };

  // Ports of the host are given out from `first_port` on: one that a guest may still have in use,
  // in a socket of before a restore, had better not come again.
  static Result<std::unique_ptr<VsockMux>> create(VsockOptions options, std::uint32_t first_port);

  const Fd& epoll() const { return epoll_; }
  void on_event(std::uint64_t key, std::uint32_t events);
  // Moves a bounded number of packets; whether it moved any. Errors are the queues'.
  Result<bool> work(Port& port);
  // What happened meanwhile, to be done without the lock.
  std::vector<Handover> take_handovers() { return std::exchange(handovers_, {}); }

  // Whether the guest has a driver. Without one there are no connections.
  void set_open(bool open);
  // kBusy: no driver, or too many connections.
  Result<Fd> connect(std::uint32_t guest_port);
  void listen(std::uint32_t port, VsockHandler handler);
  // Drops all connections, and tells the guest before anything else.
  void announce_reset();
  // How many resets the driver has not seen yet, and how many buffers of events it had published
  // before the first of them.
  struct Unseen {
    std::uint16_t resets = 0;
    std::uint16_t published = 0;
    bool operator==(const Unseen&) const = default;
  };
  Unseen unseen() const { return unseen_; }
  void set_unseen(Unseen unseen);

  static Result<> check_cid(std::uint32_t cid);
  void set_guest_cid(std::uint32_t cid) { options_.guest_cid = cid; }
  std::uint32_t guest_cid() const { return options_.guest_cid; }
  std::size_t connections() const { return connections_.size(); }

 private:
  using Ports = VsockConnection::Ports;
  struct Entry {
    VsockConnection connection;
    bool queued = false;    // is in ready_
    bool leaving = false;   // is in leaving_
    bool by_ports = false;  // is in by_ports_
  };
  // The event that tells of a reset must be seen before any packet: the guest's driver would take
  // connections made meanwhile for old ones. It puts the buffer back when it is done with it.
  enum class Reset { kNone, kToTell, kTold };

  VsockMux(VsockOptions options, Fd epoll, std::optional<PathListener> listener,
           std::uint32_t first_port)
      : options_(std::move(options)),
        epoll_(std::move(epoll)),
        listener_(std::move(listener)),
        next_port_(first_port) {}

  Result<> tell_reset(Port& port);
  Result<bool> take_from_guest(Port& port);
  Result<bool> give_to_guest(Port& port);
  Result<> take_packet(Queue& queue, const Chain& chain);
  void dispatch(const PacketHead& head, std::span<const std::byte> payload);
  void open_from_guest(const PacketHead& head);
  Result<Fd> reach_host(std::uint32_t port);
  void refuse(const PacketHead& head);
  std::optional<PacketHead> next_packet(std::size_t room);

  bool make_room();
  Result<> add(VsockConnection connection);
  Ports new_ports(std::uint32_t guest_port);
  void accept_host();
  void settle(std::uint64_t key);
  void forget(std::uint64_t key);
  void drop_connections();

  VsockOptions options_;
  Fd epoll_;
  std::optional<PathListener> listener_;
  std::map<std::uint32_t, VsockHandler> handlers_;
  bool open_ = false;
  Reset reset_ = Reset::kNone;
  Unseen unseen_;

  std::unordered_map<std::uint64_t, Entry> connections_;
  std::map<Ports, std::uint64_t> by_ports_;  // those that the guest knows
  std::deque<std::uint64_t> ready_;          // may have something to tell; first come, first served
  std::deque<std::uint64_t> leaving_;        // are given up first if there is no room
  std::deque<PacketHead> refusals_;          // packets that nobody wanted; answered by RST
  std::vector<Handover> handovers_;
  std::uint64_t next_key_ = kFirstKey + 1;
  std::uint32_t next_port_;
  std::vector<std::byte> payload_;
};

}  // namespace volt::virtio
