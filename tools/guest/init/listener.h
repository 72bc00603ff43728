// Where the host reaches the agent, and how the agent tells it that it is ready.
#pragma once

#include <cstdint>

#include "tools/guest/init/poll_set.h"
#include "vmm/os/fd.h"

namespace volt::init {

class Listener {
 public:
  // On vsock; errno if the guest has none.
  int open_vsock();
  // On a socket of this name, for a host that is the same machine; READY goes to `path`_1024.
  int open_unix(const char* path);

  bool is_open() const { return socket_.valid(); }
  void watch(PollSet& set) { ticket_ = set.add(socket_.get(), POLLIN); }
  bool has_connection(const PollSet& set) const { return set.readable(ticket_); }
  Fd accept() const;  // invalid if there is none, or it is not the host's

  // Tells once that it is ready, as soon as the host takes the call.
  void call_host(std::uint32_t failed_services);
  void watch_call(PollSet& set) { call_ticket_ = set.add(call_.get(), POLLOUT); }
  void serve_call(const PollSet& set);

 private:
  Fd socket_, call_;
  const char* unix_path_ = nullptr;
  std::uint32_t failed_services_ = 0;
  PollSet::Ticket ticket_ = PollSet::kNone, call_ticket_ = PollSet::kNone;
};

}  // namespace volt::init
