#include "vmm/pc/power.h"

#include <algorithm>

namespace volt::pc {
namespace {

constexpr std::uint8_t kSleepEnable = 1 << 5;
constexpr unsigned kSleepTypeShift = 2;
constexpr std::uint8_t kSleepTypeMask = 7;

constexpr std::uint64_t kKeyboardCommand = 4;
constexpr std::uint8_t kPulseReset = 0xFE;

}  // namespace

void Power::read(std::uint64_t offset, std::span<std::byte> into) {
  std::ranges::fill(into, std::byte{0});
  if (offset == kEvents) into[0] = std::byte{events_.exchange(0)};
}

void Power::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (offset != kSleepControl) return;
  const auto value = std::to_integer<std::uint8_t>(from[0]);
  const bool go = (value & kSleepEnable) != 0;
  if (go && ((value >> kSleepTypeShift) & kSleepTypeMask) == kSoftOff) off_();
}

void Power::announce(unsigned bit) {
  events_.fetch_or(static_cast<std::uint8_t>(1U << bit));
  event_.raise();
}

// Nothing to read, and room for a command at any time: what a probe needs to give up soon.
void Keyboard::read(std::uint64_t, std::span<std::byte> into) {
  std::ranges::fill(into, std::byte{0});
}

void Keyboard::write(std::uint64_t offset, std::span<const std::byte> from) {
  const auto value = std::to_integer<std::uint8_t>(from[0]);
  if (offset == kKeyboardCommand && value == kPulseReset) reset_();
}

}  // namespace volt::pc
