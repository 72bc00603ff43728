#include "tools/guest/micro/serial.h"

#include "tools/guest/micro/port.h"

namespace volt::guest {
namespace {

constexpr std::uint16_t kData = 0x3F8;
constexpr std::uint16_t kLineStatus = 0x3FD;
constexpr std::uint8_t kDataReady = 0x01;
constexpr std::uint8_t kTransmitEmpty = 0x20;
constexpr std::uint8_t kNoDevice = 0xFF;

// An IN is an exit of up to 25 us; without a pause between looks the guest would do nothing else.
constexpr std::uint64_t kPollCycles = 20'000;

void wait_cycles(std::uint64_t cycles) {
  const std::uint64_t start = read_tsc();
  while (read_tsc() - start < cycles) pause();
}

void put(char character) {
  while ((in8(kLineStatus) & kTransmitEmpty) == 0) pause();
  out8(kData, static_cast<std::uint8_t>(character));
}

}  // namespace

void serial_write(const char* text) {
  for (; *text != '\0'; ++text) put(*text);
}

void serial_write_hex(std::uint64_t value) {
  int shift = 60;
  while (shift > 0 && value >> shift == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) {
    const auto digit = static_cast<unsigned>(value >> shift & 15);
    put(static_cast<char>(digit < 10 ? '0' + digit : 'a' + digit - 10));
  }
}

char serial_read() {
  for (;;) {
    const std::uint8_t status = in8(kLineStatus);
    if (status == kNoDevice || (status & kDataReady) == 0) {
      wait_cycles(kPollCycles);
      continue;
    }
    const auto character = static_cast<char>(in8(kData));
    if (character != '\r') return character;
  }
}

}  // namespace volt::guest
