#include "vmm/virtio/mmio.h"

#include <linux/virtio_ids.h>

#include "tests/vmm/virtio/driver.h"
#include "vmm/virtio/entropy.h"

namespace volt::virtio {
namespace {

constexpr std::uint32_t kSteps[] = {VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER,
                                    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK};

struct MmioTest : testing::Test {
  std::unique_ptr<Mmio> make() const {
    return Mmio::create(std::make_unique<Entropy>(), memory, vmm::InterruptLine::create().value(),
                        [](const Error&) {})
        .value();
  }
  vmm::GuestMemory memory = test_memory();
  std::unique_ptr<Mmio> device = make();
  Driver driver{*device, memory};
};

TEST_F(MmioTest, SaysWhatItIs) {
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976u);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_VERSION), 2u);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_DEVICE_ID), std::uint32_t{VIRTIO_ID_RNG});
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_NUM_MAX), 64u);
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_NUM_MAX), 0u);
  driver.write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_DEVICE_FEATURES), 1u);
  driver.write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_DEVICE_FEATURES), 0u);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
}

TEST_F(MmioTest, RegistersAreWordsAndWhatIsNotThereIsZero) {
  std::byte bytes[8];
  for (const std::size_t width : {1u, 2u, 8u}) {
    std::ranges::fill(bytes, std::byte{0x55});
    device->read(VIRTIO_MMIO_MAGIC_VALUE, std::span(bytes).first(width));
    EXPECT_EQ(bytes[0], std::byte{0});
    device->write(VIRTIO_MMIO_STATUS, std::span(bytes).first(width));
    EXPECT_EQ(driver.status(), 0u);
  }
  EXPECT_EQ(driver.read32(0x002), 0u);
  EXPECT_EQ(driver.read32(0x0F0), 0u);
  EXPECT_EQ(driver.read32(0xFFC), 0u) << "behind config space";
}

TEST_F(MmioTest, StatusGoesStepByStep) {
  for (std::size_t i = 1; i < std::size(kSteps); ++i) {
    driver.write32(VIRTIO_MMIO_STATUS, kSteps[i]);
    EXPECT_EQ(driver.status(), 0u) << "a step was skipped";
  }
  driver.negotiate(kVersion1);
  const std::uint32_t settled = kSteps[0] | kSteps[1] | kSteps[2];
  EXPECT_EQ(driver.status(), settled);
  driver.write32(VIRTIO_MMIO_STATUS, kSteps[0]);
  EXPECT_EQ(driver.status(), settled) << "no step is taken back";
  driver.write32(VIRTIO_MMIO_STATUS, settled | 0x30);
  EXPECT_EQ(driver.status(), settled) << "bits nobody knows";
  driver.go();
  EXPECT_EQ(driver.status(), settled | kSteps[3]);
  driver.write32(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(driver.status(), 0u);
}

TEST_F(MmioTest, RefusesFeaturesItNeverOffered) {
  constexpr std::uint64_t kOne = 1;
  for (const std::uint64_t features : {std::uint64_t{0}, kVersion1 | 1, kVersion1 | (kOne << 28),
                                       kVersion1 | (kOne << 29), kVersion1 | (kOne << 63)}) {
    driver.negotiate(features);
    EXPECT_EQ(driver.status(), kSteps[0] | kSteps[1]) << features;
    driver.go();
    EXPECT_EQ(driver.status(), kSteps[0] | kSteps[1]) << features;
  }
}

TEST_F(MmioTest, FeaturesAreSettledOnce) {
  driver.negotiate(kVersion1);
  driver.write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  driver.write32(VIRTIO_MMIO_DRIVER_FEATURES, 1);
  device->pause();
  EXPECT_EQ(device->save()->driver_features, kVersion1);
}

TEST_F(MmioTest, QueuesThatCannotWorkNeverGetReady) {
  struct Case {
    const char* what;
    std::uint32_t size;
    std::uint64_t descriptors, available, used;
  };
  const Case cases[] = {
      {"no size", 0, 0x1000, 0x2000, 0x3000},
      {"no power of two", 12, 0x1000, 0x2000, 0x3000},
      {"too large", 128, 0x1000, 0x2000, 0x3000},
      {"larger than 16 bits", 0x10010, 0x1000, 0x2000, 0x3000},
      {"descriptors not aligned", 16, 0x1008, 0x2000, 0x3000},
      {"available ring not aligned", 16, 0x1000, 0x2001, 0x3000},
      {"used ring not aligned", 16, 0x1000, 0x2000, 0x3002},
      {"descriptors end outside", 64, kTestRam - 16 * 63, 0x2000, 0x3000},
      {"available ring ends outside", 16, 0x1000, kTestRam - 36, 0x3000},
      {"used ring ends outside", 16, 0x1000, 0x2000, kTestRam - 128},
      {"used ring nowhere", 16, 0x1000, 0x2000, UINT64_MAX - 3},
      {"descriptors wrap", 16, UINT64_MAX - 15, 0x2000, 0x3000},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    driver.negotiate(kVersion1);
    driver.place(0, each.size, each.descriptors, each.available, each.used);
    driver.write32(VIRTIO_MMIO_QUEUE_READY, 1);
    EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 0u);
    EXPECT_TRUE(driver.needs_reset());
    driver.go();
    driver.notify(0);
    EXPECT_TRUE(driver.needs_reset());
  }
}

TEST_F(MmioTest, NotificationsBeforeTheDriverIsReadyDoNothing) {
  driver.notify(0);
  driver.notify(77);
  driver.negotiate(kVersion1);
  driver.notify(0);
  driver.set_up_queue(0, 16);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  driver.notify(0);
  EXPECT_EQ(driver.used_index(0), 0);
  EXPECT_EQ(driver.interrupts(), 0u);
  driver.go();
  EXPECT_EQ(driver.used_index(0), 1) << "what was there already is seen when the driver starts";
}

TEST_F(MmioTest, QueuesStayWhereTheyAreWhileTheDriverRuns) {
  driver.start(0, 1, 16);
  driver.place(0, 32, 0, 0, 0);
  driver.write32(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 1u);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  driver.notify(0);
  EXPECT_TRUE(driver.take_used(0));
}

TEST_F(MmioTest, InterruptsStandUntilAcknowledged) {
  driver.start(0, 1, 16);
  ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  driver.notify(0);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
  driver.write32(VIRTIO_MMIO_INTERRUPT_ACK, 2);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
  driver.write32(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
}

TEST_F(MmioTest, APausedDeviceLeavesMemoryAloneAndCatchesUp) {
  driver.start(0, 1, 16);
  device->pause();
  ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  driver.notify(0);
  EXPECT_EQ(driver.used_index(0), 0);
  device->resume();
  EXPECT_EQ(driver.used_index(0), 1);
}

TEST_F(MmioTest, AStateGoesOnInAnotherDevice) {
  driver.start(0, 1, 16);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
    driver.notify(0);
    ASSERT_TRUE(driver.take_used(0));
  }
  EXPECT_FALSE(device->save()) << "only while paused";
  device->pause();
  ASSERT_TRUE(driver.add(0, {Driver::kData, 8, true}));
  const MmioState state = device->save().value();
  EXPECT_EQ(state.queues[0].next_available, 5);

  const std::unique_ptr<Mmio> other = make();
  EXPECT_EQ(other->load(state).error().code, Code::kConflict);
  other->pause();
  ASSERT_TRUE(other->load(state));
  EXPECT_EQ(other->save().value(), state);
  EXPECT_EQ(driver.used_index(0), 5);
  other->resume();
  EXPECT_EQ(driver.used_index(0), 6);
  eventfd_t edges = 0;
  EXPECT_EQ(::eventfd_read(other->interrupt_line().event().get(), &edges), 0);
  EXPECT_GE(edges, 2u) << "the interrupt that was never acknowledged, and the new one";
}

TEST_F(MmioTest, StatesNoDeviceCanBeInAreRefused) {
  driver.start(0, 1, 16);
  device->pause();
  const MmioState good = device->save().value();
  using Spoil = void (*)(MmioState&);
  const Spoil spoils[] = {
      [](MmioState& s) { s.device_id = 1; },
      [](MmioState& s) { s.status = VIRTIO_CONFIG_S_DRIVER_OK; },
      [](MmioState& s) { s.status |= 0x20; },
      [](MmioState& s) { s.status = 3; },
      [](MmioState& s) { s.driver_features = 0; },
      [](MmioState& s) { s.driver_features |= 2; },
      [](MmioState& s) { s.interrupt_status = 4; },
      [](MmioState& s) { s.queues.clear(); },
      [](MmioState& s) { s.queues.push_back({}); },
      [](MmioState& s) { s.queues[0].size = 15; },
      [](MmioState& s) { s.queues[0].size = 128; },
      [](MmioState& s) { s.queues[0].descriptors = kTestRam; },
      [](MmioState& s) { s.queues[0].available |= 1; },
      [](MmioState& s) { s.queues[0].used = UINT64_MAX - 3; },
      [](MmioState& s) { s.queues[0].next_available = 17; },
      [](MmioState& s) { s.queues[0].next_used = 1; },
      [](MmioState& s) { s.queues[0] = {.next_used = 1}; },
  };
  for (std::size_t i = 0; i < std::size(spoils); ++i) {
    MmioState bad = good;
    spoils[i](bad);
    const Result<> loaded = device->load(bad);
    ASSERT_FALSE(loaded) << i;
    EXPECT_EQ(loaded.error().code, Code::kInvalid) << i;
    EXPECT_EQ(device->save().value(), good) << i;
  }
  EXPECT_TRUE(device->load(good));
}

}  // namespace
}  // namespace volt::virtio
