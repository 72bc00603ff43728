#include "vmm/pc/power.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>

namespace volt::pc {
namespace {

std::array<std::byte, 1> one(unsigned value) {
  return {std::byte{static_cast<std::uint8_t>(value)}};
}

TEST(PowerTest, OnlyS5WithTheEnableBitIsOff) {
  int offs = 0;
  Power power(vmm::InterruptLine::create().value(), [&] { ++offs; });
  for (const unsigned value : {0u, 0x20u, 5u << 2, 0x20u | 3u << 2}) {
    power.write(kSleepControl, one(value));
  }
  power.write(kSleepStatus, one(0x34));
  EXPECT_EQ(offs, 0);
  power.write(kSleepControl, one(0x34));
  EXPECT_EQ(offs, 1);
}

TEST(PowerTest, EventsAreAnnouncedOnceAndClearedByReading) {
  Power power(vmm::InterruptLine::create().value(), [] {});
  power.announce(kPowerButtonBit);
  power.announce(kNewGenerationBit);
  eventfd_t edges = 0;
  ASSERT_EQ(::eventfd_read(power.line().event().get(), &edges), 0);
  EXPECT_EQ(edges, 2u);
  EXPECT_EQ(power.pending(), 3u);
  std::array<std::byte, 1> value = {};
  power.read(kEvents, value);
  EXPECT_EQ(value, one(3));
  power.read(kEvents, value);
  EXPECT_EQ(value, one(0));
}

TEST(KeyboardTest, OnlyThePulseOfTheResetLineResets) {
  int resets = 0;
  Keyboard keyboard([&] { ++resets; });
  for (unsigned value = 0; value < 0xFE; ++value) keyboard.write(4, one(value));
  keyboard.write(0, one(0xFE));
  EXPECT_EQ(resets, 0);
  keyboard.write(4, one(0xFE));
  EXPECT_EQ(resets, 1);
  std::array<std::byte, 1> status = one(0xFF);
  keyboard.read(4, status);
  EXPECT_EQ(status, one(0)) << "a probe that waits for room must find it";
}

}  // namespace
}  // namespace volt::pc
