// What a guest said on its console: for whoever shows it, and for whoever must tell why it died.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::pc {

class Console {
 public:
  static constexpr std::size_t kKept = 64 << 10;
  // What may wait to be shown. A guest whose console nobody empties fast enough loses what is
  // more: it must neither stop nor fill the host's memory.
  static constexpr std::size_t kMaxUnseen = 1 << 20;

  // With `shown`, what is said waits for take().
  static Result<std::unique_ptr<Console>> create(bool shown);

  void put(std::byte each);

  // Readable when there is something to take.
  const Fd& event() const { return event_; }
  std::string take();
  std::uint64_t lost() const;

  // Complete or not, without carriage returns and other control characters.
  std::vector<std::string> last_lines(std::size_t count) const;
  // The line in which the kernel says why it panicked; empty if it did not.
  std::string panic() const;

 private:
  Console(Fd event, bool shown) : event_(std::move(event)), shown_(shown) {}

  mutable std::mutex mutex_;
  Fd event_;
  bool shown_;
  std::deque<char> kept_;
  std::string unseen_;
  std::uint64_t lost_ = 0;
};

}  // namespace volt::pc
