#include "vmm/virtio/balloon.h"

#include <linux/virtio_balloon.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "tests/vmm/virtio/driver.h"

namespace volt::virtio {
namespace {

constexpr std::uint64_t kFeatures = std::uint64_t{1} << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
                                    std::uint64_t{1} << VIRTIO_BALLOON_F_REPORTING;
constexpr std::uint64_t kPages = kTestRam / Balloon::kPageBytes;
constexpr std::uint32_t kInflate = 0, kDeflate = 1, kReporting = 2;

struct BalloonTest : testing::Test {
  BalloonTest() {
    auto made = std::make_unique<Balloon>([this](std::uint64_t address, std::uint64_t bytes) {
      discarded.emplace_back(address, bytes);
      EXPECT_TRUE(memory.at(address, bytes));
      return fails ? Result<>(fail(Code::kSystem, "no")) : Result<>();
    });
    balloon = made.get();
    device = Mmio::create(std::move(made), memory, vmm::InterruptLine::create().value(),
                          [](const Error&) {})
                 .value();
    driver.emplace(*device, memory);
  }
  void give(std::uint32_t queue, std::span<const std::uint32_t> pages) {
    std::ranges::copy(std::as_bytes(pages),
                      driver->bytes(Driver::kData, pages.size_bytes()).begin());
    const auto bytes = static_cast<std::uint32_t>(pages.size_bytes());
    ASSERT_TRUE(driver->add(queue, {Driver::kData, bytes, false}));
    driver->notify(queue);
  }
  using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

  vmm::GuestMemory memory = test_memory();
  Ranges discarded;
  bool fails = false;
  Balloon* balloon = nullptr;
  std::unique_ptr<Mmio> device;
  std::optional<Driver> driver;
};

TEST_F(BalloonTest, PagesGivenUpAreDiscardedInRuns) {
  driver->start(kFeatures, 3, 64);
  const std::uint32_t pages[] = {700, 500, 501, 502, 503, 503, 601, 600, 505, 700};
  give(kInflate, pages);
  EXPECT_EQ(driver->take_used(kInflate)->written, 0u);
  EXPECT_EQ(driver->interrupts(), 1u);
  const Ranges wanted = {
      {500 * 4096, 4 * 4096}, {505 * 4096, 4096}, {600 * 4096, 2 * 4096}, {700 * 4096, 4096}};
  EXPECT_EQ(discarded, wanted);
  EXPECT_EQ(balloon->figures().inflated_pages, 8u);
}

TEST_F(BalloonTest, PagesThatAreNotRamAreLeftOut) {
  driver->start(kFeatures, 3, 64);
  const std::uint32_t pages[] = {kPages - 1, kPages, kPages + 1, 0xE'0000, UINT32_MAX, UINT32_MAX};
  give(kInflate, pages);
  EXPECT_TRUE(driver->take_used(kInflate));
  EXPECT_EQ(discarded, (Ranges{{kTestRam - 4096, 4096}}));
  EXPECT_FALSE(driver->needs_reset());
}

TEST_F(BalloonTest, ListsThatEndInAPageNumberOrHaveNoneAreFine) {
  driver->start(kFeatures, 3, 64);
  driver->word<std::uint32_t>(Driver::kData) = 500;
  ASSERT_TRUE(driver->add(kInflate, {Driver::kData, 7, false}));
  ASSERT_TRUE(driver->add(kInflate, {Driver::kData, 0, false}));
  ASSERT_TRUE(driver->add(kInflate, {Driver::kData, 64, true}));
  driver->notify(kInflate);
  EXPECT_EQ(driver->used_index(kInflate), 3);
  EXPECT_EQ(discarded, (Ranges{{500 * 4096, 4096}}));
}

TEST_F(BalloonTest, ListsWithoutEndAreMalformed) {
  driver->start(kFeatures, 3, 64);
  ASSERT_TRUE(driver->add(kInflate, {Driver::kData, Balloon::kMaxPages * 4 + 1, false}));
  driver->notify(kInflate);
  EXPECT_TRUE(driver->needs_reset());
  EXPECT_TRUE(discarded.empty());
}

TEST_F(BalloonTest, PagesTakenBackNeedNothing) {
  driver->start(kFeatures, 3, 64);
  const std::uint32_t pages[] = {500};
  give(kDeflate, pages);
  EXPECT_TRUE(driver->take_used(kDeflate));
  EXPECT_TRUE(discarded.empty());
}

TEST_F(BalloonTest, WholePagesOfReportedRangesAreDiscarded) {
  driver->start(kFeatures, 3, 64);
  const Driver::Buffer ranges[] = {{0x200000, 0x100000, true},
                                   {0x100800, 0x2000, true},
                                   {0x180800, 0x1000, true},
                                   {0x1A0000, 4095, true}};
  ASSERT_TRUE(driver->add(kReporting, ranges));
  driver->notify(kReporting);
  EXPECT_TRUE(driver->take_used(kReporting));
  EXPECT_EQ(discarded, (Ranges{{0x200000, 0x100000}, {0x101000, 0x1000}}));
  EXPECT_EQ(balloon->figures().reported_pages, 257u);
}

TEST_F(BalloonTest, WhatWasNotNegotiatedIsNotReported) {
  driver->start(0, 3, 64);
  ASSERT_TRUE(driver->add(kReporting, {0x200000, 0x1000, true}));
  driver->notify(kReporting);
  EXPECT_EQ(driver->used_index(kReporting), 0);
  EXPECT_TRUE(discarded.empty());
}

TEST_F(BalloonTest, ADiscardThatFailsIsOnlyCounted) {
  driver->start(kFeatures, 3, 64);
  fails = true;
  const std::uint32_t pages[] = {500, 501};
  give(kInflate, pages);
  EXPECT_TRUE(driver->take_used(kInflate));
  EXPECT_EQ(balloon->figures().failed_pages, 2u);
  EXPECT_EQ(balloon->figures().inflated_pages, 0u);
  EXPECT_FALSE(driver->needs_reset());
}

TEST_F(BalloonTest, ATargetIsToldAndWhatTheGuestSaysIsKept) {
  driver->start(kFeatures, 3, 64);
  balloon->set_target(256);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_INTERRUPT_STATUS), 2u);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG), 256u);
  driver->write32(VIRTIO_MMIO_CONFIG + 4, 200);
  driver->write32(VIRTIO_MMIO_CONFIG, 1);
  driver->write32(VIRTIO_MMIO_CONFIG + 8, 1);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG), 256u) << "the target is ours";
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG + 8), 0u);
  EXPECT_EQ(balloon->save(), (BalloonState{.target_pages = 256, .actual_pages = 200}));
}

TEST_F(BalloonTest, WhatTheGuestDoesIsWaitedFor) {
  driver->start(kFeatures, 3, 64);
  const std::uint64_t none = balloon->changes();
  EXPECT_FALSE(*balloon->wait_for_change(none, vmm::Deadline::in_ms(0)));
  std::thread guest([this] { driver->write32(VIRTIO_MMIO_CONFIG + 4, 200); });
  EXPECT_TRUE(*balloon->wait_for_change(none, {}));
  guest.join();
  const std::uint64_t inflated = balloon->changes();
  const std::uint32_t pages[] = {500};
  give(kInflate, pages);
  EXPECT_TRUE(*balloon->wait_for_change(inflated, {}));
  const std::uint64_t reported = balloon->changes();
  ASSERT_TRUE(driver->add(kReporting, {0x200000, 0x1000, true}));
  driver->notify(kReporting);
  EXPECT_TRUE(*balloon->wait_for_change(reported, {}));
}

TEST_F(BalloonTest, StatesLargerThanTheGuestAreRefused) {
  const auto pages = static_cast<std::uint32_t>(kPages);
  for (const BalloonState& bad : {BalloonState{pages + 1, 0}, BalloonState{0, UINT32_MAX}}) {
    EXPECT_EQ(balloon->load(bad).error().code, Code::kInvalid);
    EXPECT_EQ(balloon->save(), BalloonState{});
  }
  const BalloonState good = {.target_pages = pages, .actual_pages = 7};
  ASSERT_TRUE(balloon->load(good));
  EXPECT_EQ(balloon->save(), good);
}

}  // namespace
}  // namespace volt::virtio
