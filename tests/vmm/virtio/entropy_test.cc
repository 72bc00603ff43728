#include "vmm/virtio/entropy.h"

#include <algorithm>
#include <thread>

#include "tests/vmm/virtio/driver.h"

namespace volt::virtio {
namespace {

struct EntropyTest : testing::Test {
  vmm::GuestMemory memory = test_memory();
  std::unique_ptr<Mmio> device =
      Mmio::create(std::make_unique<Entropy>(), memory, vmm::InterruptLine::create().value(),
                   [](const Error&) {})
          .value();
  Driver driver{*device, memory};
};

TEST_F(EntropyTest, FillsWhatItIsGiven) {
  driver.start(0, 1, 16);
  const Driver::Buffer buffers[] = {{Driver::kData, 32, true}, {Driver::kData + 100, 32, true}};
  ASSERT_TRUE(driver.add(0, buffers));
  driver.notify(0);
  EXPECT_EQ(driver.take_used(0)->written, 64u);
  EXPECT_EQ(driver.interrupts(), 1u);
  for (const Driver::Buffer& each : buffers) {
    const auto bytes = driver.bytes(each.address, each.bytes);
    EXPECT_TRUE(std::ranges::any_of(bytes, [](std::byte b) { return b != std::byte{0}; }));
  }
  EXPECT_TRUE(std::ranges::all_of(driver.bytes(Driver::kData + 32, 68),
                                  [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(EntropyTest, GivesNoMoreThanItsLimit) {
  driver.start(0, 1, 16);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 1 << 20, true}));
  driver.notify(0);
  EXPECT_EQ(driver.take_used(0)->written, Entropy::kMaxBytes);
  EXPECT_EQ(driver.bytes(Driver::kData + Entropy::kMaxBytes, 1)[0], std::byte{0});
}

TEST_F(EntropyTest, LeavesWhatItMayOnlyRead) {
  driver.start(0, 1, 16);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 64, false}));
  driver.notify(0);
  EXPECT_EQ(driver.take_used(0)->written, 0u);
  EXPECT_EQ(driver.bytes(Driver::kData, 1)[0], std::byte{0});
}

TEST_F(EntropyTest, AFullQueueIsOneInterrupt) {
  driver.start(0, 1, 64);
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  driver.notify(0);
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(driver.take_used(0)) << i;
  EXPECT_EQ(driver.interrupts(), 1u);
}

// One CPU resets the device while another one uses it.
TEST_F(EntropyTest, ResetsMidTrafficLeaveItWhole) {
  std::atomic<bool> stop = false;
  driver.start(0, 1, 64);
  std::thread other([&] {
    Driver same(*device, memory);
    for (int i = 0; i < 2000; ++i) {
      same.write32(VIRTIO_MMIO_STATUS, 0);
      same.read32(VIRTIO_MMIO_INTERRUPT_STATUS);
    }
    stop = true;
  });
  while (!stop) {
    driver.start(0, 1, 64);
    driver.add(0, {Driver::kData, 64, true});
    driver.notify(0);
    driver.take_used(0);
  }
  other.join();
  driver.start(0, 1, 64);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 64, true}));
  driver.notify(0);
  EXPECT_EQ(driver.take_used(0)->written, 64u);
}

}  // namespace
}  // namespace volt::virtio
