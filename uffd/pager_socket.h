// One end of a pager's connection: messages and the descriptors that come with them. Nothing here
// waits unless it is told how long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "uffd/pager_protocol.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::uffd::pager {

// What has come and was not taken yet.
class Inbox {
 public:
  struct Received {
    Message message;
    std::vector<Fd> fds;
  };
  enum class Got { kSomething, kNothing, kEnd };

  // Reads once, without waiting. kCorrupt: more descriptors than any message has.
  Result<Got> read(int socket);
  // The next whole message.
  Result<std::optional<Received>> take();

  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<Fd> take_fds() { return std::move(fds_); }

 private:
  std::vector<std::byte> bytes_;
  std::vector<Fd> fds_;
};

// kInvalid: no socket can have it.
Result<> check_path(const std::string& path);
// kNotFound: nobody listens there. kBusy: whoever does has no time.
Result<Fd> connect_to(const std::string& path);
// Listens at `path`, which must be free. Only this user can connect.
Result<Fd> listen_at(const std::string& path);

// All of it at once, or an error: a peer that lets its messages pile up is no peer.
Result<> send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> fds);
Result<> send(int socket, const Message& message, std::span<const int> fds = {});
// The next message; kDeadline, or kPageLost when the peer has gone.
Result<Inbox::Received> await(int socket, Inbox& inbox, std::uint64_t timeout_ms);

struct Peer {
  int pid;
  unsigned uid;
};
Result<Peer> peer_of(int socket);

std::uint64_t now_ms();

}  // namespace volt::uffd::pager
