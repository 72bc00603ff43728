#include "vmm/virtio/entropy.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace volt::virtio {

Backend::Kind Entropy::kind() const {
  return {.device_id = VIRTIO_ID_RNG, .features = 0, .queue_sizes = {64}};
}

Result<> Entropy::attach(Port& port) {
  port_ = &port;
  return {};
}

Result<std::uint32_t> Entropy::fill(Queue& queue, const Chain& chain) const {
  std::array<std::byte, kMaxBytes> bytes;
  const std::size_t wanted = std::min<std::uint64_t>(bytes.size(), chain.writable_bytes);
  std::size_t got = 0;
  while (got < wanted) {
    const ssize_t more = ::getrandom(bytes.data() + got, wanted - got, 0);
    if (more > 0) got += static_cast<std::size_t>(more);
    // More than 256 bytes may be cut short by a signal; then the guest gets what there is.
    if (more <= 0 && got > 0) break;
    if (more <= 0 && errno != EINTR) return sys_error("getrandom");
  }
  VOLT_TRY(queue.write(chain, 0, std::span(bytes).first(got)));
  return static_cast<std::uint32_t>(got);
}

Result<> Entropy::notified(std::size_t number) {
  Queue& queue = port_->queue(number);
  Chain chain;
  bool pushed = false;
  // Each request is notified, so those beyond one queue's worth have a notification of their own.
  for (std::uint32_t count = 0; count < queue.state().size; ++count) {
    const bool popped = VOLT_TRY(queue.pop(chain));
    if (!popped) break;
    const std::uint32_t filled = VOLT_TRY(fill(queue, chain));
    VOLT_TRY(queue.push(chain, filled));
    pushed = true;
  }
  if (pushed) VOLT_TRY(port_->interrupt(number));
  return {};
}

}  // namespace volt::virtio
