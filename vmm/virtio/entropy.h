// Random bytes for the guest (virtio-rng), straight from this host's kernel. It keeps nothing that
// a snapshot could repeat: clones that ask get different bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/virtio/backend.h"

namespace volt::virtio {

class Entropy final : public Backend {
 public:
  // Of one request; the guest is told how much it got, and asks again.
  static constexpr std::size_t kMaxBytes = 4096;

  Kind kind() const override;
  Result<> attach(Port& port) override;
  std::span<const std::byte> config() const override { return {}; }
  // On the vCPU's thread: what a guest asks for, it pays for.
  Result<> notified(std::size_t queue) override;

 private:
  Result<std::uint32_t> fill(Queue& queue, const Chain& chain) const;

  Port* port_ = nullptr;
};

}  // namespace volt::virtio
