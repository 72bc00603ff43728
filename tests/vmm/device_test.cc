#include "vmm/device.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>
#include <utility>

namespace volt::vmm {
namespace {

class Recorder final : public Device {
 public:
  void read(std::uint64_t offset, std::span<std::byte> into) override {
    seen.emplace_back(offset, into.size());
    for (std::byte& each : into) each = std::byte{0x5A};
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    seen.emplace_back(offset, from.size());
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> seen;
};

TEST(BusTest, FindsTheDeviceThatHasAllOfAnAccess) {
  Bus bus;
  Recorder low, high;
  ASSERT_TRUE(bus.add(0x3F8, 8, high));
  ASSERT_TRUE(bus.add(0x60, 5, low));
  std::array<std::byte, 4> word = {};
  EXPECT_TRUE(bus.read(0x3FC, word));
  EXPECT_EQ(word[3], std::byte{0x5A});
  EXPECT_TRUE(bus.write(0x60, std::span(word).first(1)));
  EXPECT_EQ(high.seen, (decltype(high.seen){{4, 4}}));
  EXPECT_EQ(low.seen, (decltype(low.seen){{0, 1}}));
}

TEST(BusTest, WhatNobodyHasWhollyReadsAsOnesAndIsIgnored) {
  Bus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x100, 8, device));
  for (const std::uint64_t address : {0xFDu, 0x105u, 0x108u, 0x200u}) {
    std::array<std::byte, 4> word = {};
    EXPECT_FALSE(bus.read(address, word)) << address;
    EXPECT_EQ(word[0], std::byte{0xFF}) << address;
    EXPECT_FALSE(bus.write(address, word)) << address;
  }
  std::array<std::byte, 8> wide = {};
  EXPECT_FALSE(bus.read(UINT64_MAX - 3, wide));
  EXPECT_TRUE(device.seen.empty());
}

TEST(BusTest, RefusesOverlapsAndRangesThatWrap) {
  Bus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x100, 8, device));
  for (const std::uint64_t base : {0xF9u, 0x100u, 0x107u}) {
    const Result<> added = bus.add(base, 8, device);
    ASSERT_FALSE(added) << base;
    EXPECT_EQ(added.error().code, Code::kConflict);
  }
  EXPECT_TRUE(bus.add(0xF8, 8, device));
  EXPECT_TRUE(bus.add(0x108, 8, device));
  EXPECT_FALSE(bus.add(0x300, 0, device));
  EXPECT_FALSE(bus.add(UINT64_MAX - 3, 8, device));
}

TEST(InterruptLineTest, EdgesAddUpUntilSomebodyListens) {
  const InterruptLine line = InterruptLine::create().value();
  line.raise();
  line.raise();
  eventfd_t edges = 0;
  ASSERT_EQ(::eventfd_read(line.event().get(), &edges), 0);
  EXPECT_EQ(edges, 2u);
}

}  // namespace
}  // namespace volt::vmm
