// The ports by which a guest and Volt tell each other to stop: ACPI's sleep registers of a machine
// without fixed hardware, the register that says why the event interrupt came (power button, new
// generation), and of the i8042 keyboard controller only the pulse that resets the machine.
#pragma once

#include <atomic>
#include <functional>

#include "vmm/device.h"

namespace volt::pc {

// Offsets from layout.h's kPowerPort.
inline constexpr std::uint16_t kSleepControl = 0;
inline constexpr std::uint16_t kSleepStatus = 1;
inline constexpr std::uint16_t kEvents = 2;  // cleared by reading
inline constexpr std::uint16_t kPowerPorts = 3;

inline constexpr unsigned kPowerButtonBit = 0;
inline constexpr unsigned kNewGenerationBit = 1;
inline constexpr std::uint8_t kSoftOff = 5;  // SLP_TYP of S5

class Power final : public vmm::Device {
 public:
  // `off` is called on a CPU's thread, once for each time that the guest asks.
  Power(vmm::InterruptLine event, std::function<void()> off)
      : event_(std::move(event)), off_(std::move(off)) {}

  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

  void announce(unsigned bit);
  const vmm::InterruptLine& line() const { return event_; }
  // What the guest has not read yet.
  std::uint8_t pending() const { return events_; }
  void set_pending(std::uint8_t events) { events_ = events; }

 private:
  vmm::InterruptLine event_;
  std::function<void()> off_;
  std::atomic<std::uint8_t> events_ = 0;
};

class Keyboard final : public vmm::Device {
 public:
  static constexpr std::uint64_t kPorts = 5;  // 0x60 data, 0x64 command and status

  explicit Keyboard(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

 private:
  std::function<void()> reset_;
};

}  // namespace volt::pc
