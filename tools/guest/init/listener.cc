#include "tools/guest/init/listener.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// After sys/socket.h, which it relies on.
#include <linux/vm_sockets.h>

#include "tools/guest/init/log.h"
#include "vmm/agent_abi.h"

namespace volt::init {

namespace {

constexpr int kBacklog = 32;
constexpr int kKind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;

sockaddr_vm vsock_address(std::uint32_t cid) {
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_port = agent_abi::kPort;
  address.svm_cid = cid;
  return address;
}

bool unix_address(const char* path, const char* suffix, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  const int length = snprintf(address.sun_path, sizeof address.sun_path, "%s%s", path, suffix);
  return length > 0 && static_cast<std::size_t>(length) < sizeof address.sun_path;
}

template <typename Address>
const sockaddr* generic(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

int Listener::open_vsock() {
  Fd socket(::socket(AF_VSOCK, kKind, 0));
  const sockaddr_vm address = vsock_address(VMADDR_CID_ANY);
  if (!socket.valid() || bind(socket.get(), generic(address), sizeof address) < 0 ||
      listen(socket.get(), kBacklog) < 0)
    return errno;
  socket_ = std::move(socket);
  return 0;
}

int Listener::open_unix(const char* path) {
  sockaddr_un address;
  if (!unix_address(path, "", address)) return ENAMETOOLONG;
  unlink(path);
  Fd socket(::socket(AF_UNIX, kKind, 0));
  if (!socket.valid() || bind(socket.get(), generic(address), sizeof address) < 0 ||
      listen(socket.get(), kBacklog) < 0)
    return errno;
  socket_ = std::move(socket);
  unix_path_ = path;
  return 0;
}

Fd Listener::accept() const {
  sockaddr_vm peer = {};
  socklen_t length = sizeof peer;
  Fd connection(accept4(socket_.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                        SOCK_CLOEXEC | SOCK_NONBLOCK));
  // Programs of the guest can reach the port too, by way of the local CID: they are not obeyed.
  if (unix_path_ == nullptr && peer.svm_cid != agent_abi::kHostCid) return {};
  return connection;
}

void Listener::call_host(std::uint32_t failed_services) {
  failed_services_ = failed_services;
  const bool on_vsock = unix_path_ == nullptr;
  const sockaddr_vm vsock = vsock_address(agent_abi::kHostCid);
  sockaddr_un local;
  if (!on_vsock && !unix_address(unix_path_, "_1024", local)) return;
  call_ = Fd(socket(on_vsock ? AF_VSOCK : AF_UNIX, kKind, 0));
  if (!call_.valid()) return say_error("ready, and there is no socket", errno);
  const int result = on_vsock ? connect(call_.get(), generic(vsock), sizeof vsock)
                              : connect(call_.get(), generic(local), sizeof local);
  if (result == 0 || errno == EINPROGRESS) return;
  if (on_vsock) say_error("ready, and the host does not listen", errno);
  call_ = Fd();
}

void Listener::serve_call(const PollSet& set) {
  if (!call_.valid() || !set.writable(call_ticket_)) return;
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(call_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct {
    agent_abi::Head head;
    agent_abi::Ready ready;
  } frame = {{sizeof frame.ready, static_cast<std::uint32_t>(agent_abi::Type::kReady)},
             {agent_abi::kVersion, failed_services_,
              static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
                  static_cast<std::uint64_t>(now.tv_nsec)}};
  // So small that a new connection takes it whole.
  if (error != 0 || send(call_.get(), &frame, sizeof frame, MSG_NOSIGNAL) != sizeof frame)
    say_error("ready, and the host does not listen", error != 0 ? error : errno);
  call_ = Fd();
}

}  // namespace volt::init
