// A split virtqueue as the device sees it. All of it is written by the guest, while we look: each
// word is read once, into memory of ours, and checked there before it is used.
//
// Neither indirect descriptors nor event indexes are offered. No device here has chains so long
// that an indirect table would pay for a second kind of hostile table; and without event indexes
// suppression has no state of its own that a restored guest and its device could disagree about,
// which is how restored queues hang.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/guest_memory.h"
#include "vmm/os/error.h"

namespace volt::virtio {

struct QueueState {
  std::uint16_t size = 0;
  bool ready = false;
  std::uint64_t descriptors = 0;  // guest addresses of the three parts
  std::uint64_t available = 0;
  std::uint64_t used = 0;
  std::uint16_t next_available = 0;
  std::uint16_t next_used = 0;
  bool operator==(const QueueState&) const = default;
};

// A request: what the device may read, then what it may write. All of it was RAM when it was taken.
struct Chain {
  struct Segment {
    std::uint64_t address;
    std::uint32_t bytes;
  };
  std::uint16_t head = 0;
  std::vector<Segment> readable;
  std::vector<Segment> writable;
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
};

// Errors of all its functions: kCorrupt if the guest's rings or chains make no sense, kPageLost if
// a page of them cannot be had. Its device locks.
class Queue {
 public:
  // `memory` must outlive this. `max_size` is a power of two.
  Queue(const vmm::GuestMemory& memory, std::uint16_t max_size);

  std::uint16_t max_size() const { return max_size_; }
  const QueueState& state() const { return state_; }
  bool ready() const { return state_.ready; }
  // kInvalid, and nothing has changed, if a queue of such a state could not work.
  Result<> set_state(const QueueState& state);
  void reset();

  // Takes the next request into `chain`; false if there is none.
  Result<bool> pop(Chain& chain);
  // The last pop() has not been: only before the next one, and if its chain was not pushed.
  void put_back() { --state_.next_available; }
  // Gives a request back, with the number of bytes written into it from its beginning.
  Result<> push(const Chain& chain, std::uint32_t written);
  // Whether the guest wants to hear of what was pushed. After the push.
  Result<bool> wants_interrupt() const;
  // How many requests the guest has ever published, modulo 2^16.
  Result<std::uint16_t> published() const;

  // Copies between host and the readable or writable part of a chain, `offset` bytes into it.
  Result<> read(const Chain& chain, std::uint64_t offset, std::span<std::byte> into) const;
  Result<> write(const Chain& chain, std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  Result<> follow(std::uint16_t head, Chain& chain) const;
  Result<std::uint16_t> load(std::uint64_t address) const;
  Result<> store(std::uint64_t address, std::uint16_t value) const;

  const vmm::GuestMemory* memory_;
  std::uint16_t max_size_;
  QueueState state_;
};

std::unexpected<Error> malformed(std::string_view what);

}  // namespace volt::virtio
