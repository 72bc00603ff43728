// A 16550A serial port as the guest's console: what it writes goes to a sink, what a user types
// comes from a bounded queue. Only what a driver of a 16550A relies on is here: no modem, no real
// baud rate, and never a wait for the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "vmm/device.h"

namespace volt::pc {

struct SerialState {
  std::uint8_t interrupt_enable = 0;
  std::uint8_t fifo_control = 0;
  std::uint8_t line_control = 0;
  std::uint8_t modem_control = 0;
  std::uint8_t scratch = 0;
  std::uint16_t divisor = 12;
  bool transmit_interrupt = false;
};

class Serial final : public vmm::Device {
 public:
  static constexpr std::uint64_t kPorts = 8;
  static constexpr std::size_t kMaxQueued = 4096;
  // Called with the port locked, on a CPU's thread: must be quick, and not touch the port.
  using Sink = std::function<void(std::byte)>;

  Serial(vmm::InterruptLine line, Sink sink) : line_(std::move(line)), sink_(std::move(sink)) {}

  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

  // Typed at the console. How many bytes there was room for. They wait until the driver can be
  // interrupted by them: one that looks for the port, or opens it, clears what it finds there.
  std::size_t type(std::span<const std::byte> bytes);

  SerialState save() const;
  void load(const SerialState& state);
  const vmm::InterruptLine& line() const { return line_; }

 private:
  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  void transmit(std::uint8_t value);
  std::uint8_t identify();
  bool divisor_selected() const;
  bool receive_interrupt() const;
  bool listens() const;
  void receive_typed();
  void interrupt_if_due();

  mutable std::mutex mutex_;
  vmm::InterruptLine line_;
  Sink sink_;
  SerialState state_;
  std::deque<std::uint8_t> typed_;     // on its way
  std::deque<std::uint8_t> received_;  // for the driver to read
};

}  // namespace volt::pc
