#include "vmm/virtio/queue.h"

#include <sys/mman.h>

#include <functional>

#include "tests/vmm/virtio/driver.h"
#include "vmm/virtio/entropy.h"

namespace volt::virtio {
namespace {

constexpr std::uint16_t kSize = 8;

// A device whose only queue is as ready as a driver can make it.
struct QueueTest : testing::Test {
  QueueTest() {
    auto made =
        Mmio::create(std::make_unique<Entropy>(), memory, vmm::InterruptLine::create().value(),
                     [this](const Error& error) { lost = error.code; });
    device = std::move(made).value();
    driver.emplace(*device, memory);
    driver->start(0, 1, kSize);
  }
  // The device had enough of the queue: it says so, by an interrupt, and leaves memory alone.
  void expect_broken() {
    driver->notify(0);
    EXPECT_TRUE(driver->needs_reset());
    EXPECT_EQ(driver->used_index(0), 0);
    EXPECT_EQ(driver->read32(VIRTIO_MMIO_INTERRUPT_STATUS), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
    EXPECT_EQ(driver->interrupts(), 1u);
    EXPECT_FALSE(lost);
    driver->notify(0);
    EXPECT_EQ(driver->interrupts(), 0u);
    // A driver that starts again gets a device that works.
    driver->start(0, 1, kSize);
    ASSERT_TRUE(driver->add(0, {Driver::kData, 16, true}));
    driver->notify(0);
    EXPECT_EQ(driver->take_used(0)->written, 16u);
  }

  vmm::GuestMemory memory = test_memory();
  std::optional<Code> lost;
  std::unique_ptr<Mmio> device;
  std::optional<Driver> driver;
};

TEST_F(QueueTest, ChainsThatLoopAreMalformed) {
  for (std::uint16_t i = 0; i < kSize; ++i) {
    driver->describe(0, i, Driver::kData, 1, Driver::kWrite | Driver::kNext,
                     static_cast<std::uint16_t>((i + 1) % kSize));
  }
  driver->publish(0, 0);
  expect_broken();
}

TEST_F(QueueTest, AChainThatNamesItselfIsMalformed) {
  driver->describe(0, 3, Driver::kData, 1, Driver::kWrite | Driver::kNext, 3);
  driver->publish(0, 3);
  expect_broken();
}

TEST_F(QueueTest, AChainOfAllDescriptorsIsGood) {
  for (std::uint16_t i = 0; i < kSize; ++i) {
    const bool last = i + 1 == kSize;
    driver->describe(0, i, Driver::kData + 64u * i, 1 + (i % 2u),
                     last ? Driver::kWrite : Driver::kWrite | Driver::kNext,
                     static_cast<std::uint16_t>(i + 1));
  }
  driver->publish(0, 0);
  driver->notify(0);
  EXPECT_EQ(driver->take_used(0)->written, 12u);
}

TEST_F(QueueTest, BuffersOutsideRamAreMalformed) {
  struct Case {
    std::uint64_t address;
    std::uint32_t bytes;
  };
  const Case cases[] = {{kTestRam, 1},        {kTestRam - 8, 9}, {UINT64_MAX, 1},
                        {UINT64_MAX - 7, 16}, {0, UINT32_MAX},   {0xE000'0000, 4}};
  for (const Case& each : cases) {
    SCOPED_TRACE(each.address);
    driver->describe(0, 0, each.address, each.bytes, Driver::kWrite, 0);
    driver->publish(0, 0);
    expect_broken();
    driver->start(0, 1, kSize);
    driver->interrupts();
  }
}

TEST_F(QueueTest, BuffersAtTheVeryEndOfRamAreGood) {
  ASSERT_TRUE(driver->add(0, {kTestRam - 8, 8, true}));
  driver->notify(0);
  EXPECT_EQ(driver->take_used(0)->written, 8u);
}

TEST_F(QueueTest, DescriptorsBeyondTheTableAreMalformed) {
  driver->publish(0, kSize);
  expect_broken();
}

TEST_F(QueueTest, LinksBeyondTheTableAreMalformed) {
  driver->describe(0, 0, Driver::kData, 1, Driver::kWrite | Driver::kNext, 0xFFFF);
  driver->publish(0, 0);
  expect_broken();
}

TEST_F(QueueTest, ReadableAfterWritableIsMalformed) {
  driver->describe(0, 0, Driver::kData, 0, Driver::kWrite | Driver::kNext, 1);
  driver->describe(0, 1, Driver::kData, 4, 0, 0);
  driver->publish(0, 0);
  expect_broken();
}

TEST_F(QueueTest, IndirectTablesWereNotOffered) {
  driver->describe(0, 0, Driver::kData, 16, Driver::kIndirect, 0);
  driver->publish(0, 0);
  expect_broken();
}

TEST_F(QueueTest, AnIndexThatJumpsBeyondTheQueueIsMalformed) {
  driver->set_index(0, kSize + 1);
  expect_broken();
}

TEST_F(QueueTest, AnIndexThatGoesBackIsMalformed) {
  driver->set_index(0, 0xFFFF);
  expect_broken();
}

TEST_F(QueueTest, IndexesWrapRound) {
  for (std::uint32_t i = 0; i < 70'000; ++i) {
    ASSERT_TRUE(driver->add(0, {Driver::kData, 1, true}));
    driver->notify(0);
    ASSERT_TRUE(driver->take_used(0)) << i;
  }
  EXPECT_FALSE(driver->needs_reset());
}

TEST_F(QueueTest, ZeroBytesAreAskedForAndGiven) {
  ASSERT_TRUE(driver->add(0, {UINT64_MAX, 0, true}));
  driver->notify(0);
  EXPECT_EQ(driver->take_used(0)->written, 0u);
  EXPECT_FALSE(driver->needs_reset());
}

TEST_F(QueueTest, NoInterruptForWhoWantsNone) {
  driver->set_flags(0, 1);
  ASSERT_TRUE(driver->add(0, {Driver::kData, 4, true}));
  driver->notify(0);
  EXPECT_TRUE(driver->take_used(0));
  EXPECT_EQ(driver->interrupts(), 0u);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
}

// What the pager does to a page it cannot fill: touching it raises a signal.
TEST_F(QueueTest, APageThatIsLostStopsTheDeviceAndIsTold) {
  const auto lose = [&](std::uint64_t address, int protection) {
    ASSERT_EQ(::mprotect(driver->bytes(address, 4096).data(), 4096, protection), 0);
  };
  ASSERT_TRUE(driver->add(0, {Driver::kData, 64, true}));
  lose(Driver::kData, PROT_NONE);
  driver->notify(0);
  EXPECT_EQ(lost, Code::kPageLost);
  EXPECT_EQ(driver->used_index(0), 0);
  lose(Driver::kData, PROT_READ | PROT_WRITE);
  driver->notify(0);
  EXPECT_EQ(driver->used_index(0), 0) << "a device that lost a page stays stopped";
}

TEST_F(QueueTest, ARingThatIsLostStopsTheDeviceAndIsTold) {
  for (const std::uint64_t ring : {Driver::descriptors(0), Driver::available(0), Driver::used(0)}) {
    SCOPED_TRACE(ring);
    lost.reset();
    auto other =
        Mmio::create(std::make_unique<Entropy>(), memory, vmm::InterruptLine::create().value(),
                     [this](const Error& error) { lost = error.code; });
    Driver play(**other, memory);
    play.start(0, 1, kSize);
    ASSERT_TRUE(play.add(0, {Driver::kData, 64, true}));
    ASSERT_EQ(::mprotect(play.bytes(ring, 4096).data(), 4096, PROT_NONE), 0);
    play.notify(0);
    EXPECT_EQ(lost, Code::kPageLost);
    ASSERT_EQ(::mprotect(play.bytes(ring, 4096).data(), 4096, PROT_READ | PROT_WRITE), 0);
  }
}

}  // namespace
}  // namespace volt::virtio
