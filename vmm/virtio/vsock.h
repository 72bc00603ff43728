// Streams between the guest and this host (virtio-vsock). Host programs use unix sockets, by the
// convention that Firecracker's users know: who connects to PATH writes "CONNECT <port>\n" and
// reads "OK <host port>\n" once the guest has accepted; who listens at PATH_<port> gets what the
// guest opens to that port of CID 2. Volt itself needs no path: connect() and listen().
//
// One thread does the work; it holds the device's lock for a bounded number of packets at a time.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/virtio/backend.h"
#include "vmm/virtio/vsock_mux.h"

namespace volt::virtio {

struct VsockState {
  std::uint32_t guest_cid = 0;
  // Of a guest that is saved before it has seen the last restore.
  VsockMux::Unseen unseen = {};
  bool operator==(const VsockState&) const = default;
};

class Vsock final : public Backend {
 public:
  static Result<std::unique_ptr<Vsock>> create(VsockOptions options);
  ~Vsock() override;

  // All of these on any thread, once the device has its registers; but not by an OnLost.

  // A stream to the guest's port. It can be written to at once; it ends if the guest refuses.
  // kBusy: the guest has no driver yet, or there are too many connections.
  Result<Fd> connect(std::uint32_t guest_port);
  // Streams that the guest opens to this port of the host are the handler's, as long as the device
  // lives; a socket at PATH_<port> is not asked any more.
  void listen(std::uint32_t port, VsockHandler handler);
  // What a guest has to be told that goes on after a restore: all its connections are gone. Between
  // load() and resume() of the registers.
  void transport_reset();
  // A guest knows of a new CID once it starts its driver, or after transport_reset().
  Result<> set_guest_cid(std::uint32_t cid);

  VsockState save();
  // After the registers' load(). kInvalid if no device can be in that state.
  Result<> load(const VsockState& state);

  Kind kind() const override;
  Result<> attach(Port& port) override;
  std::span<const std::byte> config() const override { return config_; }
  void activated() override;
  Result<> notified(std::size_t queue) override;
  void reset() override;

 private:
  Vsock(std::unique_ptr<VsockMux> mux, Fd wake_up);
  void encode_config();
  void poke() const;
  void run();

  std::unique_ptr<VsockMux> mux_;
  Fd wake_up_;  // an eventfd
  std::array<std::byte, 8> config_;
  Port* port_ = nullptr;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace volt::virtio
