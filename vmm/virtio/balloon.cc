#include "vmm/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <vector>

namespace volt::virtio {
namespace {

constexpr std::size_t kTarget = offsetof(virtio_balloon_config, num_pages);
constexpr std::size_t kActual = offsetof(virtio_balloon_config, actual);

// Queues exist for what was negotiated, without gaps: Linux counts them so, whatever the standard's
// numbers are. Statistics are not offered, so reporting comes right after the first two.
enum QueueNumber : std::size_t { kInflate = 0, kDeflate = 1, kReporting = 2 };

}  // namespace

Backend::Kind Balloon::kind() const {
  return {.device_id = VIRTIO_ID_BALLOON,
          .features = std::uint64_t{1} << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
                      std::uint64_t{1} << VIRTIO_BALLOON_F_REPORTING,
          .queue_sizes = {128, 128, 128}};
}

Result<> Balloon::attach(Port& port) {
  port_ = &port;
  return {};
}

std::uint32_t Balloon::load_config(std::size_t offset) const {
  std::uint32_t value;
  std::memcpy(&value, config_.data() + offset, sizeof value);
  return value;
}

void Balloon::store_config(std::size_t offset, std::uint32_t value) {
  std::memcpy(config_.data() + offset, &value, sizeof value);
}

void Balloon::write_config(std::uint64_t offset, std::span<const std::byte> from) {
  if (offset != kActual || from.size() != sizeof(std::uint32_t)) return;
  std::uint32_t pages;
  std::memcpy(&pages, from.data(), sizeof pages);
  const std::uint64_t most = std::min<std::uint64_t>(ram_pages(), UINT32_MAX);
  store_config(kActual, std::min(pages, static_cast<std::uint32_t>(most)));
  changed();
}

void Balloon::reset() {
  store_config(kActual, 0);  // a driver that starts anew has all its pages
}

std::uint64_t Balloon::ram_pages() const {
  return port_->memory().total_bytes() / kPageBytes;
}

void Balloon::set_target(std::uint32_t pages) {
  const std::lock_guard lock(port_->mutex());
  store_config(kTarget, pages);
  port_->config_changed();
}

BalloonState Balloon::save() {
  const std::lock_guard lock(port_->mutex());
  return {.target_pages = load_config(kTarget), .actual_pages = load_config(kActual)};
}

Result<> Balloon::load(const BalloonState& state) {
  const std::lock_guard lock(port_->mutex());
  if (std::max(state.target_pages, state.actual_pages) > ram_pages()) {
    return fail(Code::kInvalid, "balloon: larger than its guest");
  }
  store_config(kTarget, state.target_pages);
  store_config(kActual, state.actual_pages);
  return {};
}

Balloon::Figures Balloon::figures() const {
  return {.inflated_pages = inflated_, .reported_pages = reported_, .failed_pages = failed_};
}

bool Balloon::discard(std::uint64_t address, std::uint64_t pages) {
  const bool done = discard_(address, pages * kPageBytes).has_value();
  if (!done) failed_ += pages;
  changed();
  return done;
}

void Balloon::changed() {
  ++changes_;
  has_changed_.notify_all();
}

Result<bool> Balloon::wait_for_change(std::uint64_t seen, vmm::Deadline deadline) {
  constexpr std::chrono::milliseconds kLookAgain(100);  // a signal does not end a wait
  std::unique_lock lock(port_->mutex());
  while (changes_ == seen) {
    VOLT_TRY(vmm::check_stop());
    if (deadline.passed()) return false;
    has_changed_.wait_for(lock, kLookAgain);
  }
  return true;
}

// Page numbers, in 32 bits each, in any order. Those that are not RAM are left out: the guest gave
// up what it did not have.
Result<> Balloon::inflate(Queue& queue, const Chain& chain) {
  if (chain.readable_bytes > kMaxPages * sizeof(std::uint32_t)) return malformed("too many pages");
  std::array<std::uint32_t, kMaxPages> buffer;
  const std::span<std::uint32_t> pages =
      std::span(buffer).first(chain.readable_bytes / sizeof(std::uint32_t));
  VOLT_TRY(queue.read(chain, 0, std::as_writable_bytes(pages)));
  // Neighbours go together: a system call each would cost more than the pages are worth.
  std::ranges::sort(pages);
  std::size_t begin = 0;
  while (begin < pages.size()) {
    const std::uint64_t first = pages[begin];
    std::uint64_t count = 0;
    std::size_t end = begin;
    for (; end < pages.size() && pages[end] <= first + count; ++end) {
      if (pages[end] == first + count) {  // else it is there twice
        if (!port_->memory().at(first * kPageBytes, (count + 1) * kPageBytes)) break;
        ++count;
      }
    }
    if (count == 0) end = begin + 1;
    if (count != 0 && discard(first * kPageBytes, count)) inflated_ += count;
    begin = end;
  }
  return {};
}

// Ranges of free memory, of which the device has the whole pages until it gives the request back.
void Balloon::report(const Chain& chain) {
  for (const Chain::Segment& segment : chain.writable) {
    const std::uint64_t end = (segment.address + segment.bytes) & ~(kPageBytes - 1);
    const std::uint64_t begin = (segment.address + kPageBytes - 1) & ~(kPageBytes - 1);
    if (begin >= end) continue;
    const std::uint64_t pages = (end - begin) / kPageBytes;
    if (discard(begin, pages)) reported_ += pages;
  }
}

Result<> Balloon::take(Queue& queue, std::size_t number, const Chain& chain) {
  if (number == kInflate) return inflate(queue, chain);
  if (number == kReporting) report(chain);
  return {};  // pages that come back are filled when the guest touches them
}

Result<> Balloon::notified(std::size_t number) {
  if (number == kReporting && !port_->has_feature(VIRTIO_BALLOON_F_REPORTING)) return {};
  Queue& queue = port_->queue(number);
  Chain chain;
  bool pushed = false;
  // Each request is notified, so those beyond one queue's worth have a notification of their own.
  for (std::uint32_t count = 0; count < queue.state().size; ++count) {
    const bool popped = VOLT_TRY(queue.pop(chain));
    if (!popped) break;
    VOLT_TRY(take(queue, number, chain));
    VOLT_TRY(queue.push(chain, 0));
    pushed = true;
  }
  if (pushed) VOLT_TRY(port_->interrupt(number));
  return {};
}

}  // namespace volt::virtio
