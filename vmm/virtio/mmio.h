// The registers of a virtio device (virtio over MMIO, version 2: no legacy drivers). They own
// feature negotiation, the status machine, where queues are, and the interrupt; what the device
// does is its Backend's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vmm/device.h"
#include "vmm/guest_memory.h"
#include "vmm/os/error.h"
#include "vmm/virtio/backend.h"
#include "vmm/virtio/port.h"

namespace volt::virtio {

// What a snapshot keeps of the registers.
struct MmioState {
  std::uint32_t device_id = 0;
  std::uint32_t status = 0;
  std::uint64_t driver_features = 0;
  std::uint32_t device_features_select = 0;
  std::uint32_t driver_features_select = 0;
  std::uint32_t queue_select = 0;
  std::uint32_t interrupt_status = 0;
  std::uint32_t config_generation = 0;
  std::vector<QueueState> queues;
  bool operator==(const MmioState&) const = default;
};

class Mmio final : public vmm::Device {
 public:
  static constexpr std::uint64_t kBytes = 0x1000;

  // `memory` must outlive the device. KVM is to listen to interrupt_line().
  static Result<std::unique_ptr<Mmio>> create(std::unique_ptr<Backend> backend,
                                              const vmm::GuestMemory& memory,
                                              vmm::InterruptLine line, OnLost on_lost);

  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

  const vmm::InterruptLine& interrupt_line() const { return port_.interrupt_line(); }

  // Once it returns, guest memory is not touched until resume(), which looks at every queue and
  // repeats an interrupt that was not acknowledged.
  void pause();
  void resume();
  // Only while paused: kConflict. A state comes from a file: kInvalid if a device of this kind
  // cannot be in it, and then nothing has changed. What the backend keeps besides is loaded after.
  Result<MmioState> save();
  Result<> load(const MmioState& state);

 private:
  Mmio(std::unique_ptr<Backend> backend, const vmm::GuestMemory& memory, vmm::InterruptLine line,
       OnLost on_lost);
  std::uint64_t offered() const;
  std::uint32_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_driver_features(std::uint32_t value);
  void write_queue_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void notify(std::size_t queue);
  void notify_all();
  void reset();
  Result<> check(const MmioState& state) const;

  Backend::Kind kind_;
  Port port_;
  std::uint32_t device_features_select_ = 0;
  std::uint32_t driver_features_select_ = 0;
  std::uint32_t queue_select_ = 0;
  std::unique_ptr<Backend> backend_;  // last, so that its threads end before what they use
};

}  // namespace volt::virtio
