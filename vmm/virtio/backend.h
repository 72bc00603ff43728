// The part of a virtio device behind its registers: what it is, and what it does with its queues.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/virtio/port.h"

namespace volt::virtio {

// All its functions but attach() and the destructor are called with the device's lock held.
class Backend {
 public:
  struct Kind {
    std::uint32_t device_id;
    std::uint64_t features;                  // VIRTIO_F_VERSION_1 is added
    std::vector<std::uint16_t> queue_sizes;  // the most that each may have; powers of two
  };

  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  // Ends what threads it has; the port is still there.
  virtual ~Backend() = default;

  virtual Kind kind() const = 0;
  // Once, before anything else. Guest memory is touched on the guest's notifications only, and
  // while the port is running().
  virtual Result<> attach(Port& port) = 0;
  // All of config space; the guest reads zeros behind it.
  virtual std::span<const std::byte> config() const = 0;
  // May reach beyond config space.
  virtual void write_config([[maybe_unused]] std::uint64_t offset,
                            [[maybe_unused]] std::span<const std::byte> from) {}
  // The driver is there. A queue it has set up may hold requests: notified() follows for each.
  virtual void activated() {}
  // There may be something in a queue that is ready. An error goes to Port::failed().
  virtual Result<> notified(std::size_t queue) = 0;
  // The driver is gone, and its queues are about to be.
  virtual void reset() {}
};

}  // namespace volt::virtio
