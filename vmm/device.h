// What a guest reaches that is not memory: devices on a bus (ports, or addresses without RAM), and
// the lines by which they interrupt it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::vmm {

// Called by whichever CPU's thread made the access, several at once: each device locks for itself.
class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // 1, 2, 4 or 8 bytes at `offset` of the device's range, wholly inside it. A guest may ask for
  // anything: what a device does not have reads as what its hardware would give, and is ignored
  // when written.
  virtual void read(std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;
};

// Made before the guest runs, only read from then on.
class Bus {
 public:
  // kConflict if it overlaps a device that is there. `device` must outlive the bus.
  Result<> add(std::uint64_t base, std::uint64_t bytes, Device& device);
  // Whether a device has all of it; if none has, a read gives all ones.
  bool read(std::uint64_t address, std::span<std::byte> into) const;
  bool write(std::uint64_t address, std::span<const std::byte> from) const;

 private:
  struct Range {
    std::uint64_t base;
    std::uint64_t bytes;
    Device* device;
  };
  const Range* find(std::uint64_t address, std::uint64_t bytes) const;

  std::vector<Range> ranges_;  // ascending
};

// An edge into the guest's interrupt controller: an eventfd that KVM listens to (irqfd).
class InterruptLine {
 public:
  static Result<InterruptLine> create();
  void raise() const;
  const Fd& event() const { return event_; }

 private:
  explicit InterruptLine(Fd event) : event_(std::move(event)) {}
  Fd event_;
};

}  // namespace volt::vmm
