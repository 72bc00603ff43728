// The unix sockets through which host programs meet a guest's: PATH, where they ask for a port of
// the guest, and PATH_<port>, where they wait for the guest.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::virtio {

// A socket that listens at a path, for as long as it lives. Who may connect is up to the modes of
// the directory.
class PathListener {
 public:
  // The path, and that of each port, has to fit in a socket's address. kConflict: something is
  // there that is not a socket which a killed process left. Nobody ever sees it there without
  // somebody who listens.
  static Result<PathListener> bind(const std::string& path);

  int fd() const { return socket_.get(); }
  // The next one, which does not block; invalid if nobody waits. One for which this process has no
  // descriptor left is turned away, so that it does not wait for ever.
  Fd accept();

 private:
  // Removed when it goes.
  class Name {
   public:
    explicit Name(std::string path) : path_(std::move(path)) {}
    Name(Name&& other) noexcept : path_(std::exchange(other.path_, {})) {}
    Name& operator=(Name&&) = delete;
    ~Name();

   private:
    std::string path_;
  };
  PathListener(Fd socket, Fd spare, Name name)
      : socket_(std::move(socket)), spare_(std::move(spare)), name_(std::move(name)) {}

  Fd socket_;
  Fd spare_;  // given up to turn somebody away
  Name name_;
};

// Does not block, neither now nor later.
Result<Fd> connect_to_path(const std::string& path);
// Two ends: the first does not block.
Result<std::pair<Fd, Fd>> socket_pair();

}  // namespace volt::virtio
