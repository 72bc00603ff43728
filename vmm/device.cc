#include "vmm/device.h"

#include <sys/eventfd.h>

#include <algorithm>

namespace volt::vmm {

Result<> Bus::add(std::uint64_t base, std::uint64_t bytes, Device& device) {
  if (bytes == 0 || base > UINT64_MAX - bytes) return fail(Code::kInvalid, "a device's range");
  const auto next = std::ranges::upper_bound(ranges_, base, {}, &Range::base);
  const bool after_ok = next == ranges_.end() || base + bytes <= next->base;
  const bool before_ok =
      next == ranges_.begin() || std::prev(next)->base + std::prev(next)->bytes <= base;
  if (!after_ok || !before_ok) return fail(Code::kConflict, "two devices in one place");
  ranges_.insert(next, {base, bytes, &device});
  return {};
}

const Bus::Range* Bus::find(std::uint64_t address, std::uint64_t bytes) const {
  const auto next = std::ranges::upper_bound(ranges_, address, {}, &Range::base);
  if (next == ranges_.begin()) return nullptr;
  const Range& range = *std::prev(next);
  const std::uint64_t offset = address - range.base;
  return offset < range.bytes && bytes <= range.bytes - offset ? &range : nullptr;
}

bool Bus::read(std::uint64_t address, std::span<std::byte> into) const {
  const Range* const range = find(address, into.size());
  if (range == nullptr) {
    std::ranges::fill(into, std::byte{0xFF});
    return false;
  }
  range->device->read(address - range->base, into);
  return true;
}

bool Bus::write(std::uint64_t address, std::span<const std::byte> from) const {
  const Range* const range = find(address, from.size());
  if (range == nullptr) return false;
  range->device->write(address - range->base, from);
  return true;
}

Result<InterruptLine> InterruptLine::create() {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return sys_error("eventfd");
  return InterruptLine(std::move(event));
}

void InterruptLine::raise() const {
  // Full only if nobody has listened 2^64 times: then one more says nothing new.
  static_cast<void>(::eventfd_write(event_.get(), 1));
}

}  // namespace volt::vmm
