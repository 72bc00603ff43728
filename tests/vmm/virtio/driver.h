// A guest's driver, played by the test: it sets a device up through its registers and builds rings
// in memory, rightly or wrongly.
#pragma once

#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "vmm/virtio/mmio.h"

namespace volt::virtio {

inline constexpr std::uint64_t kTestRam = 4 << 20;
inline constexpr std::uint64_t kVersion1 = std::uint64_t{1} << VIRTIO_F_VERSION_1;

inline vmm::GuestMemory test_memory() {
  const vmm::RegionLayout layout[] = {{.guest_base = 0, .bytes = kTestRam}};
  return vmm::GuestMemory::anonymous(layout).value();
}

// Rings are at 64 KiB times (1 + queue number); data of tests is from kData on.
class Driver {
 public:
  static constexpr std::uint64_t kData = 1 << 20;
  static constexpr std::uint16_t kWrite = 2, kNext = 1, kIndirect = 4;

  struct Buffer {
    std::uint64_t address;
    std::uint32_t bytes;
    bool device_writes;
  };
  struct Used {
    std::uint32_t head;
    std::uint32_t written;
  };

  Driver(Mmio& device, const vmm::GuestMemory& memory) : device_(&device), memory_(&memory) {}

  std::uint32_t read32(std::uint64_t offset) const {
    std::uint32_t value = 0;
    device_->read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void write32(std::uint64_t offset, std::uint32_t value) const {
    device_->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  std::uint32_t status() const { return read32(VIRTIO_MMIO_STATUS); }
  bool needs_reset() const { return (status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

  // Up to and with FEATURES_OK.
  void negotiate(std::uint64_t features) {
    write32(VIRTIO_MMIO_STATUS, 0);
    write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    for (std::uint32_t half = 0; half < 2; ++half) {
      write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
      write32(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features >> (32 * half)));
    }
    write32(VIRTIO_MMIO_STATUS, status() | VIRTIO_CONFIG_S_FEATURES_OK);
  }
  void set_up_queue(std::uint32_t number, std::uint16_t size) {
    place(number, size, descriptors(number), available(number), used(number));
    write32(VIRTIO_MMIO_QUEUE_READY, 1);
    for (std::uint64_t at = descriptors(number); at < descriptors(number) + 0x10000; at += 8) {
      word<std::uint64_t>(at) = 0;
    }
    if (rings_.size() <= number) rings_.resize(number + 1);
    rings_[number] = {.size = size, .free = {}, .chains = {}};
    rings_[number].chains.resize(size);
    for (std::uint16_t each = size; each > 0; --each) {
      rings_[number].free.push_back(static_cast<std::uint16_t>(each - 1));
    }
  }
  void place(std::uint32_t number, std::uint32_t size, std::uint64_t descriptors,
             std::uint64_t available, std::uint64_t used) const {
    write32(VIRTIO_MMIO_QUEUE_SEL, number);
    write32(VIRTIO_MMIO_QUEUE_NUM, size);
    const auto put = [&](std::uint64_t low, std::uint64_t address) {
      write32(low, static_cast<std::uint32_t>(address));
      write32(low + 4, static_cast<std::uint32_t>(address >> 32));
    };
    put(VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors);
    put(VIRTIO_MMIO_QUEUE_AVAIL_LOW, available);
    put(VIRTIO_MMIO_QUEUE_USED_LOW, used);
  }
  void go() const { write32(VIRTIO_MMIO_STATUS, status() | VIRTIO_CONFIG_S_DRIVER_OK); }
  void start(std::uint64_t features, std::uint32_t queues, std::uint16_t size) {
    negotiate(features | kVersion1);
    for (std::uint32_t number = 0; number < queues; ++number) {
      write32(VIRTIO_MMIO_QUEUE_SEL, number);
      const std::uint32_t most = read32(VIRTIO_MMIO_QUEUE_NUM_MAX);
      set_up_queue(number, size < most ? size : static_cast<std::uint16_t>(most));
    }
    go();
  }

  // Publishes a request; the device learns of it by notify(). False if the table is full.
  bool add(std::uint32_t number, std::span<const Buffer> buffers) {
    Ring& ring = rings_[number];
    if (ring.free.size() < buffers.size()) return false;
    std::vector<std::uint16_t> taken;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      taken.push_back(ring.free.back());
      ring.free.pop_back();
    }
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const auto flags =
          static_cast<std::uint16_t>((buffers[i].device_writes ? kWrite : 0) | (last ? 0 : kNext));
      describe(number, taken[i], buffers[i].address, buffers[i].bytes, flags,
               last ? std::uint16_t{0} : taken[i + 1]);
    }
    ring.chains[taken[0]] = taken;
    publish(number, taken[0]);
    return true;
  }
  bool add(std::uint32_t number, Buffer buffer) { return add(number, std::span(&buffer, 1)); }
  void notify(std::uint32_t number) const { write32(VIRTIO_MMIO_QUEUE_NOTIFY, number); }

  std::optional<Used> take_used(std::uint32_t number) {
    Ring& ring = rings_[number];
    const std::uint16_t index = std::atomic_ref(word<std::uint16_t>(used(number) + 2)).load();
    if (index == ring.seen) return {};
    const std::uint64_t element = used(number) + 4 + 8u * (ring.seen++ % ring.size);
    const Used got = {word<std::uint32_t>(element), word<std::uint32_t>(element + 4)};
    if (got.head < ring.size) {
      for (const std::uint16_t each : ring.chains[got.head]) ring.free.push_back(each);
      ring.chains[got.head].clear();
    }
    return got;
  }

  // The driver of a guest that goes on with another device.
  void adopt(const Driver& other) { rings_ = other.rings_; }

  // ---- Wrong or right, word by word.
  void describe(std::uint32_t number, std::uint16_t index, std::uint64_t address,
                std::uint32_t bytes, std::uint16_t flags, std::uint16_t next) const {
    const std::uint64_t at = descriptors(number) + 16u * index;
    word<std::uint64_t>(at) = address;
    word<std::uint32_t>(at + 8) = bytes;
    word<std::uint16_t>(at + 12) = flags;
    word<std::uint16_t>(at + 14) = next;
  }
  void publish(std::uint32_t number, std::uint16_t head) {
    Ring& ring = rings_[number];
    word<std::uint16_t>(available(number) + 4 + 2u * (ring.published % ring.size)) = head;
    set_index(number, ++ring.published);
  }
  void set_index(std::uint32_t number, std::uint16_t index) const {
    std::atomic_ref(word<std::uint16_t>(available(number) + 2)).store(index);
  }
  void set_flags(std::uint32_t number, std::uint16_t flags) const {
    std::atomic_ref(word<std::uint16_t>(available(number))).store(flags);
  }
  std::uint16_t used_index(std::uint32_t number) const {
    return std::atomic_ref(word<std::uint16_t>(used(number) + 2)).load();
  }
  static std::uint64_t descriptors(std::uint32_t number) { return 0x10000u * (1 + number); }
  static std::uint64_t available(std::uint32_t number) { return descriptors(number) + 0x8000; }
  static std::uint64_t used(std::uint32_t number) { return descriptors(number) + 0xC000; }

  template <typename T>
  T& word(std::uint64_t address) const {
    return *static_cast<T*>(static_cast<void*>(memory_->at(address, sizeof(T)).value().data()));
  }
  std::span<std::byte> bytes(std::uint64_t address, std::uint64_t count) const {
    return memory_->at(address, count).value();
  }

  // Edges since the last call.
  std::uint64_t interrupts() const {
    eventfd_t edges = 0;
    return ::eventfd_read(device_->interrupt_line().event().get(), &edges) == 0 ? edges : 0;
  }
  // Sleeps from interrupt to interrupt until `done` holds; a device that forgets one fails here.
  template <typename Done>
  [[nodiscard]] bool wait_until(Done done) const {
    while (!done()) {
      pollfd edge = {.fd = device_->interrupt_line().event().get(), .events = POLLIN, .revents = 0};
      if (::poll(&edge, 1, 30'000) <= 0) return done();
      interrupts();
    }
    return true;
  }

 private:
  struct Ring {
    std::uint16_t size = 0;
    std::uint16_t published = 0;
    std::uint16_t seen = 0;
    std::vector<std::uint16_t> free;
    std::vector<std::vector<std::uint16_t>> chains;  // descriptors of each, by its head
  };

  Mmio* device_;
  const vmm::GuestMemory* memory_;
  std::vector<Ring> rings_;
};

}  // namespace volt::virtio
