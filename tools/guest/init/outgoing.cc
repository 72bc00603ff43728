#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/command.h"

namespace volt::init {

using agent_abi::Head;

void Outgoing::put(agent_abi::Type type, Bytes payload, Bytes more) {
  const Head head = {static_cast<std::uint32_t>(payload.size() + more.size()),
                     static_cast<std::uint32_t>(type)};
  if (queue_.room() < sizeof head + head.length) return;
  queue_.push(std::as_bytes(std::span(&head, 1)));
  queue_.push(payload);
  queue_.push(more);
}

std::size_t Outgoing::room_for_output() const {
  const std::size_t kept = kReserve + sizeof(Head);
  return queue_.room() > kept ? queue_.room() - kept : 0;
}

ssize_t Outgoing::put_read(agent_abi::Type type, int fd, std::size_t most) {
  most = std::min({most, room_for_output(), std::size_t{agent_abi::kMaxPayload}});
  const std::span<std::byte> space = queue_.back();
  const ssize_t got = read(fd, space.data() + sizeof(Head), most);
  if (got <= 0) return got;
  const Head head = {static_cast<std::uint32_t>(got), static_cast<std::uint32_t>(type)};
  std::memcpy(space.data(), &head, sizeof head);
  queue_.grow(sizeof head + static_cast<std::size_t>(got));
  return got;
}

bool Outgoing::flush(int connection) {
  while (!queue_.empty()) {
    const Bytes front = queue_.front();
    const ssize_t sent = send(connection, front.data(), front.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN;
    queue_.drop(static_cast<std::size_t>(sent));
  }
  return true;
}

}  // namespace volt::init
