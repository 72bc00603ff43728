#include "vmm/virtio/mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <cstring>

namespace volt::virtio {
namespace {

constexpr std::uint32_t kMagic = 0x7472'6976;   // "virt"
constexpr std::uint32_t kVendor = 0x544C'4F56;  // "VOLT"
constexpr std::uint32_t kVersion = 2;
constexpr std::uint64_t kVersion1 = std::uint64_t{1} << VIRTIO_F_VERSION_1;

// The order in which a driver sets them; each needs those before it.
constexpr std::uint32_t kSteps[] = {VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER,
                                    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK};

bool in_order(std::uint32_t status) {
  bool earlier = true;
  for (const std::uint32_t step : kSteps) {
    const bool set = (status & step) != 0;
    if (set && !earlier) return false;
    earlier = set;
  }
  return true;
}

void set_half(std::uint64_t& value, bool high, std::uint32_t half) {
  const unsigned shift = high ? 32 : 0;
  value = (value & ~(std::uint64_t{UINT32_MAX} << shift)) | std::uint64_t{half} << shift;
}

std::uint32_t half_of(std::uint64_t value, std::uint32_t select) {
  return select > 1 ? 0 : static_cast<std::uint32_t>(value >> (32 * select));
}

}  // namespace

Mmio::Mmio(std::unique_ptr<Backend> backend, const vmm::GuestMemory& memory,
           vmm::InterruptLine line, OnLost on_lost)
    : kind_(backend->kind()),
      port_(memory, std::move(line), std::move(on_lost), kind_.queue_sizes),
      backend_(std::move(backend)) {}

Result<std::unique_ptr<Mmio>> Mmio::create(std::unique_ptr<Backend> backend,
                                           const vmm::GuestMemory& memory, vmm::InterruptLine line,
                                           OnLost on_lost) {
  std::unique_ptr<Mmio> made(
      new Mmio(std::move(backend), memory, std::move(line), std::move(on_lost)));
  VOLT_TRY(made->backend_->attach(made->port_));
  return made;
}

std::uint64_t Mmio::offered() const {
  return kind_.features | kVersion1;
}

void Mmio::read(std::uint64_t offset, std::span<std::byte> into) {
  std::ranges::fill(into, std::byte{0});
  const std::lock_guard lock(port_.mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) {
    const std::span<const std::byte> config = backend_->config();
    const std::uint64_t from = offset - VIRTIO_MMIO_CONFIG;
    if (from >= config.size()) return;
    const std::span<const std::byte> there =
        config.subspan(from, std::min<std::uint64_t>(into.size(), config.size() - from));
    std::ranges::copy(there, into.begin());
  } else if (into.size() == sizeof(std::uint32_t) && offset % sizeof(std::uint32_t) == 0) {
    const std::uint32_t value = read_register(offset);
    std::memcpy(into.data(), &value, sizeof value);
  }
}

void Mmio::write(std::uint64_t offset, std::span<const std::byte> from) {
  const std::lock_guard lock(port_.mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) {
    backend_->write_config(offset - VIRTIO_MMIO_CONFIG, from);
  } else if (from.size() == sizeof(std::uint32_t) && offset % sizeof(std::uint32_t) == 0) {
    std::uint32_t value;
    std::memcpy(&value, from.data(), sizeof value);
    write_register(offset, value);
  }
}

std::uint32_t Mmio::read_register(std::uint64_t offset) {
  const Queue* const queue = queue_select_ < port_.queues() ? &port_.queue(queue_select_) : nullptr;
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return kind_.device_id;
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return half_of(offered(), device_features_select_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue == nullptr ? 0 : queue->max_size();
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->ready() ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return port_.interrupt_status_;
    case VIRTIO_MMIO_STATUS:
      return port_.status_;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return UINT32_MAX;  // there is no such region
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return port_.config_generation_;
    default:
      return 0;
  }
}

void Mmio::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      return write_driver_features(value);
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      if (value < port_.queues()) notify(value);
      return;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      port_.interrupt_status_ &= ~value;
      return;
    case VIRTIO_MMIO_STATUS:
      return write_status(value);
    default:
      return write_queue_register(offset, value);
  }
}

void Mmio::write_driver_features(std::uint32_t value) {
  const std::uint32_t asked = VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
  if ((port_.status_ & asked) != VIRTIO_CONFIG_S_DRIVER) return;
  if (driver_features_select_ <= 1) {
    set_half(port_.driver_features_, driver_features_select_ == 1, value);
  }
}

// Queues are set up once features are settled and before the driver runs; then they are as they
// are.
void Mmio::write_queue_register(std::uint64_t offset, std::uint32_t value) {
  const std::uint32_t asked = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
  if ((port_.status_ & asked) != VIRTIO_CONFIG_S_FEATURES_OK) return;
  if (queue_select_ >= port_.queues()) return;
  Queue& queue = port_.queue(queue_select_);
  if (offset == VIRTIO_MMIO_QUEUE_READY && value == 0) return queue.reset();
  if (queue.ready()) return;
  QueueState state = queue.state();
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // One that does not fit is kept as none, which is refused when the queue gets ready.
      state.size = value > queue.max_size() ? std::uint16_t{0} : static_cast<std::uint16_t>(value);
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      set_half(state.descriptors, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      set_half(state.available, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      set_half(state.used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
      break;
    case VIRTIO_MMIO_QUEUE_READY:
      state.ready = value == 1;
      break;
    default:
      return;
  }
  const Result<> set = queue.set_state(state);
  if (!set) port_.failed(set.error());
}

void Mmio::write_status(std::uint32_t value) {
  if (value == 0) return reset();
  const std::uint32_t before = port_.status_;
  std::uint32_t wanted = (before | value) & ~std::uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET};
  const bool features_good =
      (port_.driver_features_ & kVersion1) != 0 && (port_.driver_features_ & ~offered()) == 0;
  // The driver finds out by reading it back.
  if (!features_good) wanted &= ~std::uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
  const std::uint32_t known = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_ACKNOWLEDGE |
                              VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
                              VIRTIO_CONFIG_S_DRIVER_OK;
  if ((wanted & ~known) != 0 || !in_order(wanted)) return;
  port_.status_ = wanted | (before & VIRTIO_CONFIG_S_NEEDS_RESET);
  if ((wanted & ~before & VIRTIO_CONFIG_S_DRIVER_OK) != 0) {
    backend_->activated();
    notify_all();
  }
}

void Mmio::notify(std::size_t queue) {
  if (!port_.running() || !port_.queue(queue).ready()) return;
  const Result<> done = backend_->notified(queue);
  if (!done) port_.failed(done.error());
}

void Mmio::notify_all() {
  for (std::size_t queue = 0; queue < port_.queues(); ++queue) notify(queue);
}

void Mmio::reset() {
  backend_->reset();
  for (std::size_t queue = 0; queue < port_.queues(); ++queue) port_.queue(queue).reset();
  port_.status_ = port_.interrupt_status_ = 0;
  port_.driver_features_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
}

void Mmio::pause() {
  const std::lock_guard lock(port_.mutex_);
  port_.paused_ = true;
}

void Mmio::resume() {
  const std::lock_guard lock(port_.mutex_);
  if (!port_.paused_) return;
  port_.paused_ = false;
  if (port_.interrupt_status_ != 0) port_.line_.raise();
  notify_all();
}

Result<MmioState> Mmio::save() {
  const std::lock_guard lock(port_.mutex_);
  if (!port_.paused_) return fail(Code::kConflict, "virtio: saved while it runs");
  MmioState state = {.device_id = kind_.device_id,
                     .status = port_.status_,
                     .driver_features = port_.driver_features_,
                     .device_features_select = device_features_select_,
                     .driver_features_select = driver_features_select_,
                     .queue_select = queue_select_,
                     .interrupt_status = port_.interrupt_status_,
                     .config_generation = port_.config_generation_,
                     .queues = {}};
  for (const Queue& queue : port_.queues_) state.queues.push_back(queue.state());
  return state;
}

Result<> Mmio::check(const MmioState& state) const {
  if (state.device_id != kind_.device_id || state.queues.size() != port_.queues()) {
    return fail(Code::kInvalid, "virtio: state of another device");
  }
  constexpr std::uint32_t kKnownInterrupts = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;
  constexpr std::uint32_t kKnownStatus = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                         VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
                                         VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
  if ((state.status & ~kKnownStatus) != 0 || !in_order(state.status) ||
      (state.interrupt_status & ~kKnownInterrupts) != 0) {
    return fail(Code::kInvalid, "virtio: status");
  }
  const bool settled = (state.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  const bool features_good =
      (state.driver_features & kVersion1) != 0 && (state.driver_features & ~offered()) == 0;
  if (settled && !features_good) return fail(Code::kInvalid, "virtio: features");
  for (std::size_t number = 0; number < state.queues.size(); ++number) {
    if (state.queues[number].ready && !settled) return fail(Code::kInvalid, "virtio: early queue");
    Queue trial = port_.queues_[number];
    VOLT_TRY(trial.set_state(state.queues[number]));
  }
  return {};
}

Result<> Mmio::load(const MmioState& state) {
  const std::lock_guard lock(port_.mutex_);
  if (!port_.paused_) return fail(Code::kConflict, "virtio: loaded while it runs");
  VOLT_TRY(check(state));
  reset();
  for (std::size_t number = 0; number < state.queues.size(); ++number) {
    VOLT_TRY(port_.queue(number).set_state(state.queues[number]));
  }
  port_.status_ = state.status;
  port_.driver_features_ = state.driver_features;
  port_.interrupt_status_ = state.interrupt_status;
  port_.config_generation_ = state.config_generation;
  device_features_select_ = state.device_features_select;
  driver_features_select_ = state.driver_features_select;
  queue_select_ = state.queue_select;
  if ((state.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) backend_->activated();
  return {};
}

}  // namespace volt::virtio
