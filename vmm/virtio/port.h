// What the registers of a device and the part behind them share: the lock, the queues, and the ways
// to tell the guest something.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/device.h"
#include "vmm/guest_memory.h"
#include "vmm/os/error.h"
#include "vmm/virtio/queue.h"

namespace volt::virtio {

// What becomes of a device that met a page of guest memory that cannot be had: the guest must stop
// with this error. Called once, on any thread, with the device's lock held: it may not call the
// device, nor wait for a thread that does.
using OnLost = std::function<void(const Error& error)>;

class Port {
 public:
  // `memory` must outlive this.
  Port(const vmm::GuestMemory& memory, vmm::InterruptLine line, OnLost on_lost,
       std::span<const std::uint16_t> queue_sizes);
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  // The device's one lock. Everything below needs it, but for interrupt_line() and memory().
  std::mutex& mutex() { return mutex_; }
  const vmm::InterruptLine& interrupt_line() const { return line_; }
  const vmm::GuestMemory& memory() const { return *memory_; }

  // Whether guest memory may be touched: the driver is there, nothing is broken, nobody paused us.
  bool running() const;
  // What the driver accepted.
  bool has_feature(unsigned bit) const { return ((driver_features_ >> bit) & 1) != 0; }
  Queue& queue(std::size_t number) { return queues_[number]; }
  std::size_t queues() const { return queues_.size(); }

  // Something was pushed: interrupts, unless the guest does not care. Errors as the queue's.
  Result<> interrupt(std::size_t queue);
  // What the guest reads in config space is different from now on.
  void config_changed();
  // kPageLost ends the device and is told to the machine; anything else is the guest's doing, and
  // the device does nothing until its driver resets it.
  void failed(const Error& error);

 private:
  friend class Mmio;  // the registers

  std::mutex mutex_;
  const vmm::GuestMemory* memory_;
  vmm::InterruptLine line_;
  OnLost on_lost_;
  std::vector<Queue> queues_;
  std::uint64_t driver_features_ = 0;
  std::uint32_t status_ = 0;
  std::uint32_t interrupt_status_ = 0;
  std::uint32_t config_generation_ = 0;
  bool paused_ = false;
  bool lost_ = false;
};

}  // namespace volt::virtio
