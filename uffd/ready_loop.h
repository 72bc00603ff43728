// A thread that waits for descriptors to have something to read.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::uffd {

class ReadyLoop final {
 public:
  enum class Ready {
    kToRead,
    kBroken,  // it will never have anything, and a read might sleep
  };
  struct Work {
    // Of the descriptor that is watched as `key`. It may have been ignored a moment ago.
    std::function<void(std::uint64_t key, Ready ready)> on_ready;
    // Before each sleep: how long it may last in milliseconds, -1 for ever.
    std::function<int()> before_sleep;
  };

  static Result<std::unique_ptr<ReadyLoop>> start(Work work);
  // Waits for the thread; it is not in `work` afterwards.
  ~ReadyLoop() { stop(); }
  // The same, while the loop may still be used: by what its thread does last.
  void stop();

  // `key` is not 0. On any thread.
  Result<> watch(int fd, std::uint64_t key);
  void ignore(int fd);
  // Ends a sleep, so that before_sleep is asked again.
  void poke() const;

 private:
  ReadyLoop(Fd epoll, Fd wake_up, Work work);
  void run();

  Fd epoll_;
  Fd wake_up_;  // an eventfd
  Work work_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace volt::uffd
