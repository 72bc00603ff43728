// What the fuzzers of virtio devices share: an input is a list of what a guest does, word by word
// or, so that a mutation gets past the first check, a whole step of a driver at once.
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "vmm/virtio/mmio.h"

namespace volt::virtio {

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

inline constexpr std::uint64_t kFuzzRam = 256 << 10;
inline constexpr std::uint64_t kVersion1 = std::uint64_t{1} << VIRTIO_F_VERSION_1;

// The rest of an input; zeros behind its end.
class FuzzInput {
 public:
  explicit FuzzInput(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  template <typename T>
  T take() {
    T value = {};
    const std::size_t there = std::min(sizeof value, bytes_.size());
    std::memcpy(&value, bytes_.data(), there);
    bytes_ = bytes_.subspan(there);
    return value;
  }
  std::span<const std::byte> take(std::size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const std::byte> bytes_;
};

class FuzzedGuest {
 public:
  static constexpr std::uint8_t kOps = 12;  // those of the device follow

  explicit FuzzedGuest(std::unique_ptr<Backend> backend) : kind_(backend->kind()) {
    std::memset(memory().at(0, kFuzzRam).value().data(), 0, kFuzzRam);
    device_ = Mmio::create(std::move(backend), memory(), vmm::InterruptLine::create().value(),
                           [](const Error&) { expect(false, "no page is ever lost"); })
                  .value();
  }

  static vmm::GuestMemory& memory() {
    static const vmm::RegionLayout kLayout[] = {{.guest_base = 0, .bytes = kFuzzRam}};
    static vmm::GuestMemory memory = vmm::GuestMemory::anonymous(kLayout).value();
    return memory;
  }
  Mmio& device() { return *device_; }

  // One of kOps.
  void act(std::uint8_t op, FuzzInput& input) {
    switch (op) {
      case 0: {
        const std::uint64_t offset = std::uint64_t{input.take<std::uint8_t>()} * 4;
        return write32(offset, input.take<std::uint32_t>());
      }
      case 1:
        return read_anywhere(input);
      case 2:
        return write_anywhere(input);
      case 3: {
        const std::uint64_t address = input.take<std::uint32_t>();
        return write_memory(address, input.take(input.take<std::uint8_t>()));
      }
      case 4:
        return start(input.take<std::uint8_t>());
      case 5:
        return describe(input);
      case 6: {
        const std::uint32_t queue = input.take<std::uint8_t>();
        return publish(queue, input.take<std::uint8_t>());
      }
      case 7:
        return write32(VIRTIO_MMIO_QUEUE_NOTIFY, input.take<std::uint8_t>());
      case 8: {
        const std::uint32_t queue = input.take<std::uint8_t>();
        return write16(available(queue) + 2, input.take<std::uint16_t>());
      }
      case 9:
        return save_and_load();
      case 10:
        return load_nonsense(input);
      default:
        return write32(VIRTIO_MMIO_STATUS, 0);
    }
  }

  // A driver that does all right, with the features that are asked for of those offered.
  void start(std::uint8_t features) {
    write32(VIRTIO_MMIO_STATUS, 0);
    write32(VIRTIO_MMIO_STATUS, 3);
    write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    write32(VIRTIO_MMIO_DRIVER_FEATURES, features & static_cast<std::uint32_t>(kind_.features));
    write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write32(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    write32(VIRTIO_MMIO_STATUS, 11);
    for (std::uint32_t queue = 0; queue < kind_.queue_sizes.size(); ++queue) {
      write32(VIRTIO_MMIO_QUEUE_SEL, queue);
      write32(VIRTIO_MMIO_QUEUE_NUM, size(queue));
      write32(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<std::uint32_t>(descriptors(queue)));
      write32(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<std::uint32_t>(available(queue)));
      write32(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<std::uint32_t>(available(queue)) + 0x400);
      write32(VIRTIO_MMIO_QUEUE_READY, 1);
      write16(available(queue) + 2, 0);
    }
    write32(VIRTIO_MMIO_STATUS, 15);
  }
  void describe(std::uint32_t queue, std::uint16_t index, std::uint64_t address,
                std::uint32_t bytes, std::uint16_t flags, std::uint16_t next) {
    struct {
      std::uint64_t address;
      std::uint32_t bytes;
      std::uint16_t flags, next;
    } const raw = {address, bytes, flags, next};
    write_memory(descriptors(queue) + 16u * index, std::as_bytes(std::span(&raw, 1)));
  }
  void publish(std::uint32_t queue, std::uint16_t head) {
    if (queue >= kind_.queue_sizes.size()) return;
    std::uint16_t index = 0;
    static_cast<void>(
        memory().read(available(queue) + 2, std::as_writable_bytes(std::span(&index, 1))));
    write16(available(queue) + 4 + 2u * (index % size(queue)), head);
    write16(available(queue) + 2, static_cast<std::uint16_t>(index + 1));
    write32(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
  }
  // What is not RAM is left out.
  static void write_memory(std::uint64_t address, std::span<const std::byte> bytes) {
    static_cast<void>(memory().write(address, bytes));
  }

 private:
  static std::uint64_t descriptors(std::uint32_t queue) { return 0x1000u * (1 + queue); }
  static std::uint64_t available(std::uint32_t queue) { return descriptors(queue) + 0x800; }
  std::uint16_t size(std::uint32_t queue) const {
    return std::min<std::uint16_t>(kind_.queue_sizes[queue], 32);
  }
  void write32(std::uint64_t offset, std::uint32_t value) {
    device_->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  static void write16(std::uint64_t address, std::uint16_t value) {
    write_memory(address, std::as_bytes(std::span(&value, 1)));
  }
  void read_anywhere(FuzzInput& input) {
    std::byte bytes[8];
    const std::size_t width = std::size_t{1} << (input.take<std::uint8_t>() % 4);
    const std::uint64_t offset = input.take<std::uint16_t>() % (Mmio::kBytes - width + 1);
    device_->read(offset, std::span(bytes).first(width));
  }
  void write_anywhere(FuzzInput& input) {
    const std::size_t width = std::size_t{1} << (input.take<std::uint8_t>() % 4);
    const std::uint64_t offset = input.take<std::uint16_t>() % (Mmio::kBytes - width + 1);
    const auto value = input.take<std::uint64_t>();
    device_->write(offset, std::as_bytes(std::span(&value, 1)).first(width));
  }
  void describe(FuzzInput& input) {
    const std::uint32_t queue = input.take<std::uint8_t>();
    const std::uint16_t index = input.take<std::uint8_t>();
    const std::uint64_t address = input.take<std::uint32_t>();
    const std::uint32_t bytes = input.take<std::uint32_t>();
    const std::uint16_t flags = input.take<std::uint8_t>();
    describe(queue, index, address, bytes, flags, input.take<std::uint8_t>());
  }
  void save_and_load() {
    device_->pause();
    const MmioState state = device_->save().value();
    expect(device_->load(state).has_value(), "what was saved can be loaded");
    expect(device_->save().value() == state, "what was loaded is what was saved");
    device_->resume();
  }
  void load_nonsense(FuzzInput& input) {
    device_->pause();
    const MmioState before = device_->save().value();
    MmioState state = before;
    state.status = input.take<std::uint8_t>();
    state.driver_features = kVersion1 | input.take<std::uint8_t>();
    state.interrupt_status = input.take<std::uint8_t>();
    for (QueueState& queue : state.queues) {
      queue.size = input.take<std::uint16_t>();
      queue.ready = (input.take<std::uint8_t>() & 1) != 0;
      queue.descriptors = input.take<std::uint64_t>();
      queue.available = input.take<std::uint32_t>();
      queue.used = input.take<std::uint32_t>();
      queue.next_available = input.take<std::uint16_t>();
      queue.next_used = input.take<std::uint16_t>();
    }
    const bool loaded = device_->load(state).has_value();
    expect(device_->save().value() == (loaded ? state : before), "a state is loaded or it is not");
    device_->resume();
  }

  Backend::Kind kind_;
  std::unique_ptr<Mmio> device_;
};

}  // namespace volt::virtio
