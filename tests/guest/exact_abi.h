// What the `exact` guest computes, so that a test can compute it too. Each of its registers is a
// line: its start plus, for every step the guest has made, its slope. At each step it also looks
// for a new generation, which it acknowledges, and for a request. Freestanding: the guest includes
// this very file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/guest_abi.h"

namespace volt::exact {

// What a request can ask for. Each answer but kOut's carries the registers as they were when the
// guest saw the request, and their checksum.
enum class Function : std::uint32_t {
  kRegisters = 1,  // from then on it parks every 64 steps, as it does after boot
  kRunOn = 2,      // from then on it makes steps and never parks
  kOut = 3,        // (port): writes to that port; on an answer nothing was there to stop it
};

inline constexpr int kLines = 11;  // RAX RBX RCX RDX RSI RDI RBP R8 R9 R10 R11
inline constexpr int kVectors = 16;

struct Registers {
  std::uint64_t lines[kLines];
  std::uint64_t r12;                   // a line, too: the twelfth
  std::uint64_t r13;                   // the window's address
  std::uint64_t r14;                   // seq of the request served before
  std::uint64_t r15;                   // steps made
  std::uint64_t rsp;                   // the stack's top
  std::uint64_t vectors[kVectors][2];  // XMM0-15: lines in each half
  std::uint32_t mxcsr;
  std::uint16_t x87_control;
  std::uint16_t reserved;
};
static_assert(offsetof(Registers, vectors) == 128);
static_assert(offsetof(Registers, mxcsr) == 384);
static_assert(sizeof(Registers) == 392);

inline constexpr std::uint64_t kStartSeed = 0x5741'5254;
inline constexpr std::uint64_t kSlopeSeed = 0x51'0BE5;
inline constexpr std::uint32_t kMxcsr = 0x9FC0;       // not what a fresh CPU has
inline constexpr std::uint16_t kX87Control = 0x027F;  // likewise

// Bits that are no line: the low half of RDX's low word names the port it rings.
inline constexpr std::uint64_t kRdxPortBits = 0xFFFF;
inline constexpr int kRdx = 3;

constexpr std::uint64_t line_mask(int line) {
  return line == kRdx ? ~kRdxPortBits : ~std::uint64_t{0};
}
constexpr std::uint64_t start_of(int line) {
  const std::uint64_t port = line == kRdx ? guest_abi::kPortPark : 0;
  return (guest_abi::seeded_word(kStartSeed, static_cast<std::uint64_t>(line)) & line_mask(line)) |
         port;
}
constexpr std::uint64_t slope_of(int line) {
  return guest_abi::seeded_word(kSlopeSeed, static_cast<std::uint64_t>(line)) & line_mask(line);
}

// Lines 0-10 are `lines`, 11 is R12, and 12 + 2 * i + half is XMM i.
inline constexpr int kVectorLine = kLines + 1;

constexpr Registers after(std::uint64_t steps) {
  Registers at = {};
  const auto line = [steps](int i) { return start_of(i) + steps * slope_of(i); };
  for (int i = 0; i < kLines; ++i) at.lines[i] = line(i);
  at.r12 = line(kLines);
  at.r13 = guest_abi::kWindowBase;
  at.r15 = steps;
  for (int i = 0; i < kVectors; ++i) {
    for (int half = 0; half < 2; ++half) at.vectors[i][half] = line(kVectorLine + 2 * i + half);
  }
  at.mxcsr = kMxcsr;
  at.x87_control = kX87Control;
  return at;
}

}  // namespace volt::exact
