// One stream between a socket of this host and one of the guest: which bytes wait where, who has
// promised whom how much room, and which halves are shut. It never blocks, and holds at most
// kWindowBytes of the guest's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/os/fd.h"
#include "vmm/virtio/vsock_packet.h"

namespace volt::virtio {

class VsockConnection {
 public:
  // What the guest may send beyond what the host's peer has taken.
  static constexpr std::uint32_t kWindowBytes = 128 << 10;

  enum class Stage {
    kGreeting,    // a host program has not said yet which port it wants
    kRequesting,  // the guest has not answered yet
    kOpen,
    kClosed,  // the host's side is gone; what is left is to tell the guest, or its answer
  };
  struct Ports {
    std::uint32_t host;
    std::uint32_t guest;
    auto operator<=>(const Ports&) const = default;
  };
  struct Packet {
    std::uint16_t op;
    std::uint32_t flags;
    std::uint32_t bytes;
  };

  // Sockets do not block. Opened by the host, by a program that greets:
  static VsockConnection greeted(Fd socket);
  // ... by Volt itself:
  static VsockConnection requested(Fd socket, Ports ports);
  // ... by the guest, whose request is `head`:
  static VsockConnection accepted(Fd socket, const PacketHead& head);

  Stage stage() const { return stage_; }
  Ports ports() const { return ports_; }
  int socket() const { return socket_.get(); }
  // To be forgotten, at once.
  bool over() const { return over_; }
  // Forgotten by the guest; what it sent before is still being written.
  bool orphan() const { return orphan_; }

  // ---- From the host.
  // Events of epoll, edge-triggered.
  void on_socket(std::uint32_t events);
  // Of one that has to greet: the guest's port, as soon as it is there. One that says anything else
  // is over.
  std::optional<std::uint32_t> greeting();
  void request(Ports ports);

  // ---- From the guest.
  void heard(const PacketHead& head);  // its window, with every packet
  void guest_accepts();
  void guest_sends(std::span<const std::byte> bytes);
  void guest_shuts(std::uint32_t flags);
  void guest_asks_for_credit() { owed_ |= kOweCredit; }
  void guest_resets();
  // The guest broke the rules, or there is no room for the connection.
  void reset();

  // ---- To the guest.
  bool wants_to_tell() const;
  // The next packet, if there is one, with its data in `payload`.
  std::optional<Packet> tell(std::span<std::byte> payload);
  std::uint32_t forwarded() const { return forwarded_; }

 private:
  enum Owed : unsigned { kOweRequest = 1, kOweResponse = 2, kOweCredit = 4, kOweReset = 8 };

  VsockConnection(Fd socket, Stage stage, Ports ports, unsigned owed)
      : socket_(std::move(socket)), stage_(stage), ports_(ports), owed_(owed) {}
  std::uint32_t credit() const;
  bool may_read_host() const;
  std::optional<Packet> next(std::span<std::byte> payload);
  std::optional<Packet> read_host(std::span<std::byte> payload);
  std::size_t send_host(std::span<const std::byte> bytes);
  void flush();
  void passed_on(std::size_t bytes);
  void host_left();
  void settle();
  void close_host();
  bool take_owed(Owed what);

  Fd socket_;
  Stage stage_;
  Ports ports_;
  unsigned owed_;
  bool greets_ = false;
  bool over_ = false;
  bool orphan_ = false;

  // The host's socket.
  bool readable_ = false;
  bool writable_ = true;
  bool host_done_ = false;          // all it sent has been read
  bool host_gone_ = false;          // closed: nobody will read what the guest sends
  std::vector<std::byte> backlog_;  // of the guest's, from backlog_start_ on
  std::size_t backlog_start_ = 0;

  // The guest's room, and ours; counts of bytes modulo 2^32.
  std::uint32_t guest_window_ = 0;
  std::uint32_t guest_forwarded_ = 0;
  std::uint32_t sent_ = 0;
  std::uint32_t forwarded_ = 0;
  std::uint32_t forwarded_told_ = 0;
  bool credit_asked_ = false;

  // VIRTIO_VSOCK_SHUTDOWN_*, each from its sender's point of view.
  std::uint32_t guest_shut_ = 0;
  std::uint32_t shut_here_ = 0;  // what of the guest's was done to the socket
  std::uint32_t host_shut_ = 0;
  std::uint32_t host_shut_told_ = 0;
};

}  // namespace volt::virtio
