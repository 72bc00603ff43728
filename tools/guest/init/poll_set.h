// Descriptors of one turn of the loop. Who adds one keeps its ticket and asks with it afterwards.
#pragma once

#include <poll.h>

#include <cstddef>

namespace volt::init {

class PollSet {
 public:
  static constexpr std::size_t kCapacity = 512;
  using Ticket = std::size_t;
  static constexpr Ticket kNone = kCapacity;

  void clear() { count_ = 0; }

  // None for a descriptor that is not open; errors and hang-ups are always looked for.
  Ticket add(int fd, short events) {
    if (fd < 0 || count_ == kCapacity) return kNone;
    fds_[count_] = {fd, events, 0};
    return count_++;
  }
  bool wait(int timeout_ms) { return ::poll(fds_, count_, timeout_ms) > 0; }

  short events(Ticket ticket) const { return ticket == kNone ? short{0} : fds_[ticket].revents; }
  bool readable(Ticket ticket) const {
    return (events(ticket) & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) != 0;
  }
  bool writable(Ticket ticket) const {
    return (events(ticket) & (POLLOUT | POLLHUP | POLLERR | POLLNVAL)) != 0;
  }

 private:
  pollfd fds_[kCapacity] = {};
  std::size_t count_ = 0;
};

}  // namespace volt::init
