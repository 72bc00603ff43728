#include "vmm/pc/serial.h"

#include <algorithm>

namespace volt::pc {
namespace {

enum Register : std::uint64_t {
  kData = 0,             // or the divisor's low byte
  kInterruptEnable = 1,  // or its high byte
  kIdentifyOrFifo = 2,
  kLineControl = 3,
  kModemControl = 4,
  kLineStatus = 5,
  kModemStatus = 6,
  kScratch = 7,
};

constexpr std::uint8_t kOnReceive = 1 << 0;
constexpr std::uint8_t kOnTransmit = 1 << 1;
constexpr std::uint8_t kKnownEnables = 0x0F;
constexpr std::uint8_t kDivisorLatch = 1 << 7;
constexpr std::uint8_t kLoopback = 1 << 4;
constexpr std::uint8_t kInterruptsPass = 1 << 3;  // the port's second output, on a PC
constexpr std::uint8_t kFifoOn = 1 << 0;
constexpr std::uint8_t kFifoClearReceived = 1 << 1;

constexpr std::size_t kFifoBytes = 16;

constexpr std::uint8_t kNothingDue = 1;
constexpr std::uint8_t kTransmitDue = 2;
constexpr std::uint8_t kReceiveDue = 4;
constexpr std::uint8_t kHasFifos = 0xC0;

constexpr std::uint8_t kDataReady = 1 << 0;
constexpr std::uint8_t kTransmitterEmpty = 0x60;
constexpr std::uint8_t kModemPresent = 0xB0;  // carrier, data set ready, clear to send

}  // namespace

void Serial::read(std::uint64_t offset, std::span<std::byte> into) {
  std::ranges::fill(into, std::byte{0});
  const std::lock_guard lock(mutex_);
  into[0] = std::byte{read_register(offset)};
}

void Serial::write(std::uint64_t offset, std::span<const std::byte> from) {
  const std::lock_guard lock(mutex_);
  write_register(offset, std::to_integer<std::uint8_t>(from[0]));
}

bool Serial::divisor_selected() const {
  return (state_.line_control & kDivisorLatch) != 0;
}

bool Serial::receive_interrupt() const {
  return !received_.empty() && (state_.interrupt_enable & kOnReceive) != 0;
}

std::uint8_t Serial::read_register(std::uint64_t offset) {
  switch (offset) {
    case kData: {
      if (divisor_selected()) return static_cast<std::uint8_t>(state_.divisor & 0xFF);
      if (received_.empty()) return 0;
      const std::uint8_t value = received_.front();
      received_.pop_front();
      receive_typed();
      interrupt_if_due();  // the line is an edge: what is left has to say so again
      return value;
    }
    case kInterruptEnable:
      if (divisor_selected()) return static_cast<std::uint8_t>(state_.divisor >> 8);
      return state_.interrupt_enable;
    case kIdentifyOrFifo:
      return identify();
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus:
      return kTransmitterEmpty | (received_.empty() ? 0 : kDataReady);
    case kModemStatus:
      // In loopback the outputs are the inputs; drivers find the port by that.
      if ((state_.modem_control & kLoopback) != 0) {
        const unsigned out = state_.modem_control;
        return static_cast<std::uint8_t>((out & 0x0C) << 4 | (out & 0x02) << 3 | (out & 0x01) << 5);
      }
      return kModemPresent;
    default:
      return state_.scratch;
  }
}

// Why it interrupts, the most urgent reason first; reading takes the transmitter's back.
std::uint8_t Serial::identify() {
  const std::uint8_t fifos = (state_.fifo_control & kFifoOn) != 0 ? kHasFifos : 0;
  if (receive_interrupt()) return fifos | kReceiveDue;
  if (!state_.transmit_interrupt) return fifos | kNothingDue;
  state_.transmit_interrupt = false;
  return fifos | kTransmitDue;
}

void Serial::write_register(std::uint64_t offset, std::uint8_t value) {
  switch (offset) {
    case kData:
      if (divisor_selected()) {
        state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0xFF00) | value);
      } else {
        transmit(value);
      }
      return;
    case kInterruptEnable:
      if (divisor_selected()) {
        state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0x00FF) | value << 8);
        return;
      }
      // The transmitter is empty at all times, so enabling its interrupt makes it due.
      state_.transmit_interrupt = (value & kOnTransmit) != 0;
      state_.interrupt_enable = value & kKnownEnables;
      receive_typed();
      interrupt_if_due();
      return;
    case kIdentifyOrFifo:
      state_.fifo_control = value & kFifoOn;
      if ((value & kFifoClearReceived) == 0) return;
      received_.clear();
      receive_typed();
      interrupt_if_due();
      return;
    case kLineControl:
      state_.line_control = value;
      return;
    case kModemControl:
      state_.modem_control = value & 0x1F;
      receive_typed();
      interrupt_if_due();
      return;
    case kScratch:
      state_.scratch = value;
      return;
    default:
      return;  // the status registers are not for writing
  }
}

void Serial::transmit(std::uint8_t value) {
  if ((state_.modem_control & kLoopback) != 0) {
    if (received_.size() < kMaxQueued) received_.push_back(value);
  } else {
    sink_(std::byte{value});
  }
  state_.transmit_interrupt = (state_.interrupt_enable & kOnTransmit) != 0;
  interrupt_if_due();
}

// A driver that only tries what the port can do leaves the interrupts' way closed.
bool Serial::listens() const {
  return (state_.interrupt_enable & kOnReceive) != 0 &&
         (state_.modem_control & (kInterruptsPass | kLoopback)) == kInterruptsPass;
}

void Serial::receive_typed() {
  if (!listens() || !received_.empty()) return;
  const std::size_t count = std::min(typed_.size(), kFifoBytes);
  const auto end = typed_.begin() + static_cast<std::ptrdiff_t>(count);
  received_.assign(typed_.begin(), end);
  typed_.erase(typed_.begin(), end);
}

void Serial::interrupt_if_due() {
  if (receive_interrupt() || state_.transmit_interrupt) line_.raise();
}

std::size_t Serial::type(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  const std::size_t room = std::min(bytes.size(), kMaxQueued - typed_.size());
  for (const std::byte each : bytes.first(room)) {
    typed_.push_back(std::to_integer<std::uint8_t>(each));
  }
  receive_typed();
  interrupt_if_due();
  return room;
}

SerialState Serial::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Serial::load(const SerialState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  typed_.clear();
  received_.clear();
  // KVM may not have passed the last one on yet when its chips were saved. One too many does no
  // harm: the port then says that nothing is due.
  interrupt_if_due();
}

}  // namespace volt::pc
