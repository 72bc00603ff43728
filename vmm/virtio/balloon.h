// Memory the guest can spare (virtio-balloon): pages it gives up because we ask (the balloon), and
// free pages it tells of by itself (reporting), both handed to whoever can take them back from the
// host.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "vmm/interrupt.h"
#include "vmm/os/error.h"
#include "vmm/virtio/backend.h"

namespace volt::virtio {

// Lets go of whole pages of RAM, all in one region: they read as zeros until the guest writes them
// again. Called on a vCPU's thread with the device's lock held. kBusy: they do, and still take
// memory.
using Discarder = std::function<Result<>(std::uint64_t address, std::uint64_t bytes)>;

// In pages of 4 KiB.
struct BalloonState {
  std::uint32_t target_pages = 0;
  std::uint32_t actual_pages = 0;
  bool operator==(const BalloonState&) const = default;
};

class Balloon final : public Backend {
 public:
  static constexpr std::uint64_t kPageBytes = 4096;
  // Of one request: Linux gives 256 at a time.
  static constexpr std::size_t kMaxPages = 1024;

  struct Figures {
    std::uint64_t inflated_pages;  // given up since the device was made
    std::uint64_t reported_pages;
    std::uint64_t failed_pages;  // of both; the discarder could not take them
  };

  explicit Balloon(Discarder discard) : discard_(std::move(discard)) {}

  // On any thread, once the device has its registers. How large the balloon ought to be; the guest
  // gives what it can, and takes it back when it runs out of memory.
  void set_target(std::uint32_t pages);
  // `actual_pages` is what the guest says.
  BalloonState save();
  // kInvalid if it is more than the guest has.
  Result<> load(const BalloonState& state);
  Figures figures() const;
  // How often the guest has said how large its balloon is, or has let go of pages. On any thread.
  std::uint64_t changes() const { return changes_; }
  // Until they are more than `seen`; false if they are not by the deadline.
  Result<bool> wait_for_change(std::uint64_t seen, vmm::Deadline deadline);

  Kind kind() const override;
  Result<> attach(Port& port) override;
  std::span<const std::byte> config() const override { return config_; }
  void write_config(std::uint64_t offset, std::span<const std::byte> from) override;
  Result<> notified(std::size_t queue) override;
  void reset() override;

 private:
  Result<> take(Queue& queue, std::size_t number, const Chain& chain);
  Result<> inflate(Queue& queue, const Chain& chain);
  void report(const Chain& chain);
  bool discard(std::uint64_t address, std::uint64_t pages);
  void changed();
  std::uint64_t ram_pages() const;
  std::uint32_t load_config(std::size_t offset) const;
  void store_config(std::size_t offset, std::uint32_t value);

  Discarder discard_;
  Port* port_ = nullptr;
  std::array<std::byte, 8> config_ = {};  // target, actual
  std::atomic<std::uint64_t> inflated_ = 0;
  std::atomic<std::uint64_t> reported_ = 0;
  std::atomic<std::uint64_t> failed_ = 0;
  std::atomic<std::uint64_t> changes_ = 0;  // grows under the device's lock
  std::condition_variable has_changed_;
};

}  // namespace volt::virtio
