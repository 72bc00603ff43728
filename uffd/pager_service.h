// A pager as other processes see it: a socket where VMs ask for images, hand their userfaultfds
// over, and are served until they go. Knows nothing of where images come from.
//
// One thread reads the socket and every connection; faults are answered by the threads of each
// image's fault server. A connection that says anything wrong is closed, and costs nobody else
// anything: nothing here waits for a peer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "uffd/fault_server.h"
#include "uffd/pager_socket.h"
#include "uffd/ready_loop.h"

namespace volt::uffd {

// An image and what goes with it.
struct ServedImage {
  std::string name;  // for good: what a VM asks for again after its pager died
  std::uint64_t image_bytes;
  std::uint64_t unit_bytes;
  Fd documents;  // sealed: what a VM needs besides memory, which is none of our business
  std::array<std::uint64_t, 2> document_bytes;
  std::unique_ptr<FaultServer> server;
};

class PagerService final {
 public:
  struct Options {
    std::string path;
    // On the thread of the service.
    std::function<Result<std::shared_ptr<ServedImage>>(const std::string& name)> open;
    std::function<std::string()> stats = {};  // JSON
    // Set: connections that begin with Firecracker's hand-shake get this image.
    std::optional<std::string> firecracker_image = std::nullopt;
    // How long a connection may take to say what it wants.
    std::uint64_t hello_deadline_ms = 10'000;
    // An image one of whose fault threads has not answered a ping for so long gets no VMs: those
    // that gave it up would come back, and sleep again.
    std::uint64_t stuck_ms = 5'000;
    // What was refused, one line each.
    std::function<void(const std::string& line)> log = {};
    bool may_poison = true;  // of the images' fault servers
  };
  // Listens when it returns. kConflict: somebody does already; a socket whose pager died is taken
  // over.
  static Result<std::unique_ptr<PagerService>> start(Options options);
  // The connections end, the socket is gone.
  ~PagerService();

  std::size_t connections() const { return connected_; }

 private:
  // The way to a VM, for any thread.
  struct Line {
    Fd socket;
    Fd process;                        // a pidfd, where nothing else could stop a VM
    std::atomic<bool> pinged = false;  // and not answered yet
    std::mutex mutex;
    void tell(const pager::Message& message);
  };
  // Whoever holds it owns the path. Its file goes with it.
  class SocketLock {
   public:
    static Result<SocketLock> take(const std::string& path);
    SocketLock(SocketLock&&) = default;
    ~SocketLock();

   private:
    SocketLock(Fd file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}
    Fd file_;
    std::string name_;
  };
  struct Connection {
    enum class State { kHello, kAttach, kServed, kForgotten };
    State state = State::kHello;
    std::shared_ptr<Line> line;
    pager::Inbox inbox;
    pager::Peer peer = {};
    pager::Mode mode = pager::Mode::kCopied;
    std::uint64_t since_ms = 0;
    int empty_reads = 0;
    bool silent = false;  // nothing more is listened to
    std::shared_ptr<ServedImage> image;
    std::optional<std::uint64_t> clone;
  };

  PagerService(Options options, SocketLock lock, Fd listener)
      : options_(std::move(options)), lock_(std::move(lock)), listener_(std::move(listener)) {}

  void on_ready(std::uint64_t key);
  int before_sleep();
  void accept_all();
  void accept_one(Fd socket);
  void hear(std::uint64_t key);
  // An error: the connection has to go.
  Result<> read_all(Connection& connection, std::uint64_t key);
  Result<> take(Connection& connection, pager::Inbox::Received received);
  Result<> greet(Connection& connection, const pager::Hello& hello);
  Result<> attach(Connection& connection, std::span<const pager::WireView> views, Fd uffd);
  Result<> attach_firecracker(Connection& connection);
  void drop(std::uint64_t key, const std::optional<Error>& why);

  const Options options_;
  SocketLock lock_;  // held as long as the socket is ours
  Fd listener_;

  // All on the loop's thread.
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::set<std::uint64_t> pending_;  // that have not said what they want
  std::uint64_t next_key_ = 2;
  bool paused_ = false;  // no descriptors left to accept with

  std::atomic<std::size_t> connected_ = 0;
  std::unique_ptr<ReadyLoop> loop_;  // destroyed first
};

}  // namespace volt::uffd
