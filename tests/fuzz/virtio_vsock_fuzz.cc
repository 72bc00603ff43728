// Vsock under a guest and host programs that do anything: no crash, bounded connections, and it
// comes to rest. Without its thread, so that an input always does the same.
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <mutex>
#include <vector>

#include "tests/fuzz/virtio_ops.h"
#include "vmm/virtio/vsock_mux.h"

namespace volt::virtio {
namespace {

constexpr std::size_t kConnections = 6;
constexpr std::uint32_t kCid = 3;
constexpr std::uint64_t kPacketPlace = 0x2'0000, kBufferPlace = 0x3'0000;

class InlineVsock final : public Backend {
 public:
  explicit InlineVsock(VsockMux& mux) : mux_(&mux) {}
  Kind kind() const override {
    return {.device_id = VIRTIO_ID_VSOCK, .features = 0, .queue_sizes = {32, 32, 16}};
  }
  Result<> attach(Port& port) override {
    port_ = &port;
    return {};
  }
  std::span<const std::byte> config() const override { return {}; }
  void activated() override { mux_->set_open(true); }
  void reset() override { mux_->set_open(false); }
  Result<> notified(std::size_t /*queue*/) override { return {}; }

  void turn() {
    for (int turns = 0;; ++turns) {
      expect(turns < 1000, "it comes to rest");
      std::array<epoll_event, 16> events;
      const int count = ::epoll_wait(mux_->epoll().get(), events.data(), events.size(), 0);
      const std::lock_guard lock(port_->mutex());
      for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        mux_->on_event(event.data.u64, event.events);
      }
      const Result<bool> worked = mux_->work(*port_);
      if (!worked) {
        expect(worked.error().code == Code::kCorrupt, "the guest is to blame");
        mux_->set_open(false);
        port_->failed(worked.error());
      }
      expect(mux_->connections() <= kConnections, "connections are bounded");
      for (VsockMux::Handover& each : mux_->take_handovers()) each.handler(std::move(each.socket));
      if (count <= 0 && !worked.value_or(false)) return;
    }
  }
  std::mutex& mutex() { return port_->mutex(); }

 private:
  VsockMux* mux_;
  Port* port_ = nullptr;
};

struct Scene {
  void keep(Fd socket) {
    ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
    if (programs.size() >= 2 * kConnections) programs.erase(programs.begin());
    programs.push_back(std::move(socket));
  }
  void guest_packet(FuzzInput& input) {
    const std::uint8_t op = input.take<std::uint8_t>();
    const std::uint8_t ports = input.take<std::uint8_t>();
    const std::uint32_t host_port =
        ports & 0x80 ? 0x4000'0000u + ((ports >> 4) & 7u) : (ports >> 4) & 7u;
    const std::uint8_t bytes = input.take<std::uint8_t>();
    const PacketHeadBytes head = encode({.source_cid = kCid,
                                         .target_cid = kHostCid,
                                         .source_port = ports & 15u,
                                         .target_port = host_port,
                                         .bytes = bytes * 257u,
                                         .type = VIRTIO_VSOCK_TYPE_STREAM,
                                         .op = static_cast<std::uint16_t>(op & 15),
                                         .flags = std::uint32_t{op} >> 4,
                                         .window = input.take<std::uint16_t>(),
                                         .forwarded = input.take<std::uint16_t>()});
    guest.write_memory(kPacketPlace, head);
    guest.describe(1, 0, kPacketPlace, 44u + bytes * 257u, 0, 0);
    guest.publish(1, 0);
  }
  void guest_buffer(FuzzInput& input) {
    const std::uint16_t index = input.take<std::uint8_t>() % 32;
    guest.describe(0, index, kBufferPlace, 44u + input.take<std::uint16_t>(), 2, 0);
    guest.publish(0, index);
  }
  void host(FuzzInput& input) {
    if (programs.empty()) return;
    const std::uint8_t what = input.take<std::uint8_t>();
    const std::size_t which = (what >> 3) % programs.size();
    const int socket = programs[which].get();
    std::array<std::byte, 8192> bytes = {};
    switch (what % 5) {
      case 0:
        ::send(socket, bytes.data(), 1 + input.take<std::uint8_t>() * 32u, MSG_NOSIGNAL);
        break;
      case 1:
        ::recv(socket, bytes.data(), bytes.size(), 0);
        break;
      case 2:
        ::shutdown(socket, SHUT_WR);
        break;
      case 3:
        ::shutdown(socket, SHUT_RD);
        break;
      default:
        programs.erase(programs.begin() + static_cast<std::ptrdiff_t>(which));
    }
  }
  void act(FuzzInput& input) {
    const std::uint8_t op = input.take<std::uint8_t>() % (FuzzedGuest::kOps + 5);
    if (op < FuzzedGuest::kOps) return guest.act(op, input);
    if (op == FuzzedGuest::kOps) return guest_packet(input);
    if (op == FuzzedGuest::kOps + 1) return guest_buffer(input);
    if (op == FuzzedGuest::kOps + 2) return host(input);
    const std::lock_guard lock(vsock->mutex());
    if (op == FuzzedGuest::kOps + 3) return mux->announce_reset();
    Result<Fd> socket = mux->connect(input.take<std::uint8_t>() & 15);
    if (socket) keep(std::move(*socket));
  }

  std::vector<Fd> programs;
  std::unique_ptr<VsockMux> mux =
      VsockMux::create({.guest_cid = kCid, .path = {}, .max_connections = kConnections}, 0).value();
  InlineVsock* vsock = new InlineVsock(*mux);
  FuzzedGuest guest{std::unique_ptr<Backend>(vsock)};
};

}  // namespace
}  // namespace volt::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::virtio;
  FuzzInput input(std::as_bytes(std::span(data, size)));
  Scene scene;
  for (const std::uint32_t port : {0u, 1u, 2u}) {
    scene.mux->listen(port, [&](volt::Fd socket) { scene.keep(std::move(socket)); });
  }
  while (!input.empty()) {
    scene.act(input);
    scene.vsock->turn();
  }
  return 0;
}
