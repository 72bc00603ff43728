#include "vmm/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <string>

#include "vmm/os/fault_guard.h"

namespace volt::virtio {
namespace {

// <linux/virtio_ring.h> is no C++.
struct Descriptor {
  std::uint64_t address;
  std::uint32_t bytes;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);
constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;

struct UsedElement {
  std::uint32_t head;
  std::uint32_t written;
};
static_assert(sizeof(UsedElement) == 8);

// Both rings: flags, index, entries, and a word for event indexes.
constexpr std::uint64_t kIndexOffset = 2;
constexpr std::uint64_t kRingOffset = 4;
constexpr std::uint64_t kRingRest = 6;
constexpr std::uint16_t kNoInterrupt = 1;

// Memory of the guest holds whatever the guest put there, so any of its words is a valid one.
std::uint16_t& word_at(std::span<std::byte> place) {
  return *static_cast<std::uint16_t*>(static_cast<void*>(place.data()));
}

template <typename T>
Result<T> read_once(const vmm::GuestMemory& memory, std::uint64_t address) {
  T value = {};
  VOLT_TRY(memory.read(address, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

}  // namespace

std::unexpected<Error> malformed(std::string_view what) {
  return fail(Code::kCorrupt, "virtqueue: " + std::string(what));
}

Queue::Queue(const vmm::GuestMemory& memory, std::uint16_t max_size)
    : memory_(&memory), max_size_(max_size) {
  reset();
}

void Queue::reset() {
  state_ = {};
  state_.size = max_size_;
}

Result<> Queue::set_state(const QueueState& state) {
  const std::uint16_t in_flight =
      static_cast<std::uint16_t>(state.next_available - state.next_used);
  if (!state.ready && (state.next_available != 0 || state.next_used != 0)) {
    return fail(Code::kInvalid, "virtqueue: indexes of a queue that is not ready");
  }
  if (state.ready) {
    if (!std::has_single_bit(state.size) || state.size > max_size_) {
      return fail(Code::kInvalid, "virtqueue: size " + std::to_string(state.size));
    }
    if (state.descriptors % 16 != 0 || state.available % 2 != 0 || state.used % 4 != 0) {
      return fail(Code::kInvalid, "virtqueue: a part of it is not aligned");
    }
    if (in_flight > state.size) return fail(Code::kInvalid, "virtqueue: indexes");
    VOLT_TRY(memory_->at(state.descriptors, sizeof(Descriptor) * state.size));
    VOLT_TRY(memory_->at(state.available, kRingRest + sizeof(std::uint16_t) * state.size));
    VOLT_TRY(memory_->at(state.used, kRingRest + sizeof(UsedElement) * state.size));
  }
  state_ = state;
  return {};
}

// The index is published after what it tells of, and the guest's word on interrupts is read after
// ours on the index: both need the order of all, which on x86 only stores pay for.
Result<std::uint16_t> Queue::load(std::uint64_t address) const {
  const std::span<std::byte> place = VOLT_TRY(memory_->at(address, sizeof(std::uint16_t)));
  std::uint16_t value = 0;
  VOLT_TRY(guarded([&] { value = std::atomic_ref(word_at(place)).load(); }));
  return value;
}

Result<> Queue::store(std::uint64_t address, std::uint16_t value) const {
  const std::span<std::byte> place = VOLT_TRY(memory_->at(address, sizeof(std::uint16_t)));
  return guarded([&] { std::atomic_ref(word_at(place)).store(value); });
}

Result<std::uint16_t> Queue::published() const {
  return load(state_.available + kIndexOffset);
}

Result<bool> Queue::pop(Chain& chain) {
  if (!state_.ready) return false;
  const std::uint16_t index = VOLT_TRY(published());
  const auto waiting = static_cast<std::uint16_t>(index - state_.next_available);
  if (waiting == 0) return false;
  if (waiting > state_.size) return malformed("more requests than it has room for");
  const std::uint64_t slot = state_.next_available % state_.size;
  const std::uint64_t entry = state_.available + kRingOffset + slot * sizeof(std::uint16_t);
  const std::uint16_t head = VOLT_TRY(read_once<std::uint16_t>(*memory_, entry));
  VOLT_TRY(follow(head, chain));
  ++state_.next_available;
  return true;
}

Result<> Queue::follow(std::uint16_t head, Chain& chain) const {
  chain.head = head;
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;
  bool writing = false;
  std::uint16_t index = head;
  for (std::uint32_t count = 0; count < state_.size; ++count) {
    if (index >= state_.size) return malformed("a descriptor beyond its table");
    const Descriptor descriptor =
        VOLT_TRY(read_once<Descriptor>(*memory_, state_.descriptors + index * sizeof(Descriptor)));
    if ((descriptor.flags & kIndirect) != 0) return malformed("an indirect table nobody offered");
    const bool writes = (descriptor.flags & kWrite) != 0;
    if (writing && !writes) return malformed("something to read after something to write");
    writing = writes;
    if (descriptor.bytes != 0) {
      if (!memory_->at(descriptor.address, descriptor.bytes)) return malformed("a buffer not RAM");
      (writes ? chain.writable : chain.readable).push_back({descriptor.address, descriptor.bytes});
      (writes ? chain.writable_bytes : chain.readable_bytes) += descriptor.bytes;
    }
    if ((descriptor.flags & kNext) != 0) {
      index = descriptor.next;
      continue;
    }
    // What was written is told in 32 bits.
    if (chain.readable_bytes + chain.writable_bytes > UINT32_MAX) return malformed("4 GiB at once");
    return {};
  }
  return malformed("a chain without end");
}

Result<> Queue::push(const Chain& chain, std::uint32_t written) {
  if (!state_.ready) return {};
  const UsedElement element = {.head = chain.head, .written = written};
  const std::uint64_t slot = state_.next_used % state_.size;
  VOLT_TRY(memory_->write(state_.used + kRingOffset + slot * sizeof element,
                          std::as_bytes(std::span(&element, 1))));
  ++state_.next_used;
  return store(state_.used + kIndexOffset, state_.next_used);
}

Result<bool> Queue::wants_interrupt() const {
  if (!state_.ready) return false;
  const std::uint16_t flags = VOLT_TRY(load(state_.available));
  return (flags & kNoInterrupt) == 0;
}

namespace {

// Calls copy(address, bytes, done) for each piece of [offset, offset + bytes) of what the segments
// are together.
template <typename Copy>
Result<> each_piece(std::span<const Chain::Segment> segments, std::uint64_t offset,
                    std::uint64_t bytes, Copy copy) {
  std::uint64_t done = 0;
  for (const Chain::Segment& segment : segments) {
    if (done == bytes) break;
    if (offset >= segment.bytes) {
      offset -= segment.bytes;
      continue;
    }
    const std::uint64_t piece = std::min(segment.bytes - offset, bytes - done);
    VOLT_TRY(copy(segment.address + offset, piece, done));
    done += piece;
    offset = 0;
  }
  return done == bytes ? Result<>() : malformed("a chain too short");
}

}  // namespace

Result<> Queue::read(const Chain& chain, std::uint64_t offset, std::span<std::byte> into) const {
  return each_piece(chain.readable, offset, into.size(),
                    [&](std::uint64_t address, std::uint64_t bytes, std::uint64_t done) {
                      return memory_->read(address, into.subspan(done, bytes));
                    });
}

Result<> Queue::write(const Chain& chain, std::uint64_t offset,
                      std::span<const std::byte> from) const {
  return each_piece(chain.writable, offset, from.size(),
                    [&](std::uint64_t address, std::uint64_t bytes, std::uint64_t done) {
                      return memory_->write(address, from.subspan(done, bytes));
                    });
}

}  // namespace volt::virtio
