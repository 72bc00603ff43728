#include "vmm/virtio/port.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

namespace volt::virtio {

Port::Port(const vmm::GuestMemory& memory, vmm::InterruptLine line, OnLost on_lost,
           std::span<const std::uint16_t> queue_sizes)
    : memory_(&memory), line_(std::move(line)), on_lost_(std::move(on_lost)) {
  for (const std::uint16_t size : queue_sizes) queues_.emplace_back(memory, size);
}

bool Port::running() const {
  const std::uint32_t bits = status_ & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
  return bits == VIRTIO_CONFIG_S_DRIVER_OK && !paused_ && !lost_;
}

Result<> Port::interrupt(std::size_t queue) {
  const bool wanted = VOLT_TRY(queues_[queue].wants_interrupt());
  if (!wanted) return {};
  interrupt_status_ |= VIRTIO_MMIO_INT_VRING;
  line_.raise();
  return {};
}

void Port::config_changed() {
  ++config_generation_;
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) == 0) return;
  interrupt_status_ |= VIRTIO_MMIO_INT_CONFIG;
  line_.raise();
}

void Port::failed(const Error& error) {
  if (lost_) return;
  if (error.code == Code::kPageLost) {
    lost_ = true;
    on_lost_(error);
    return;
  }
  status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
  config_changed();
}

}  // namespace volt::virtio
