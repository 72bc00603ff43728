#include "vmm/pc/serial.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>
#include <string>

namespace volt::pc {
namespace {

class SerialTest : public testing::Test {
 protected:
  void out(std::uint64_t offset, unsigned value) {
    const std::array<std::byte, 1> byte = {std::byte{static_cast<std::uint8_t>(value)}};
    serial_.write(offset, byte);
  }
  unsigned in(std::uint64_t offset) {
    std::array<std::byte, 1> byte = {};
    serial_.read(offset, byte);
    return std::to_integer<unsigned>(byte[0]);
  }
  std::uint64_t edges() {
    eventfd_t count = 0;
    return ::eventfd_read(serial_.line().event().get(), &count) == 0 ? count : 0;
  }
  // As a driver does that opens the port.
  void listen() {
    out(4, 0x08);
    out(1, 0x01);
  }
  void type(std::string_view text) {
    EXPECT_EQ(serial_.type(std::as_bytes(std::span(text))), text.size());
  }

  std::string said_;
  Serial serial_{vmm::InterruptLine::create().value(),
                 [this](std::byte each) { said_ += static_cast<char>(each); }};
};

TEST_F(SerialTest, WhatIsWrittenIsSaid) {
  for (const char c : std::string_view("ok\n")) out(0, static_cast<unsigned char>(c));
  EXPECT_EQ(said_, "ok\n");
  EXPECT_EQ(in(5), 0x60u) << "always room, nothing to read";
  EXPECT_EQ(edges(), 0u);
}

TEST_F(SerialTest, WhatIsTypedIsReadByteByByte) {
  listen();
  type("ab");
  EXPECT_EQ(edges(), 1u);
  EXPECT_EQ(in(2) & 0x0F, 4u);
  EXPECT_EQ(in(5) & 1, 1u);
  EXPECT_EQ(in(0), 'a');
  EXPECT_EQ(edges(), 1u) << "the line is an edge: the next byte says so itself";
  EXPECT_EQ(in(0), 'b');
  EXPECT_EQ(in(2) & 0x0F, 1u);
  EXPECT_EQ(in(0), 0u);
}

TEST_F(SerialTest, TheTransmitterInterruptsWhenEnabledAndAfterEachByte) {
  out(1, 2);
  EXPECT_EQ(edges(), 1u);
  EXPECT_EQ(in(2) & 0x0F, 2u);
  EXPECT_EQ(in(2) & 0x0F, 1u) << "reading takes it back";
  out(0, 'x');
  EXPECT_EQ(edges(), 1u);
  EXPECT_EQ(in(2) & 0x0F, 2u);
}

TEST_F(SerialTest, AFullQueueTakesNoMore) {
  const std::vector<std::byte> flood(Serial::kMaxQueued + 1);
  EXPECT_EQ(serial_.type(flood), Serial::kMaxQueued);
  EXPECT_EQ(serial_.type(flood), 0u);
  listen();
  EXPECT_EQ(serial_.type(flood), 16u) << "as much as has gone to the driver";
}

TEST_F(SerialTest, WhatIsTypedBeforeTheDriverListensIsNotCleared) {
  type("early");
  EXPECT_EQ(in(5) & 1, 0u);
  EXPECT_EQ(in(0), 0u);
  out(1, 0x0F);
  EXPECT_EQ(in(5) & 1, 0u) << "it only looks which of the bits it can set";
  out(1, 0);
  out(2, 3);
  EXPECT_EQ(edges(), 1u) << "the transmitter's";
  listen();
  EXPECT_EQ(edges(), 1u);
  std::string read;
  while ((in(5) & 1) != 0) read += static_cast<char>(in(0));
  EXPECT_EQ(read, "early");
}

TEST_F(SerialTest, TheFifoIsClearedByItsRegister) {
  listen();
  type("0123456789abcdef, and more");
  EXPECT_EQ(in(0), '0');
  out(2, 3);
  EXPECT_EQ(in(0), ',');
}

TEST_F(SerialTest, LoopbackBringsBackWhatWasWrittenAndTheModemLines) {
  out(4, 0x1A);
  EXPECT_EQ(in(6), 0x90u) << "by this drivers tell that a port is there";
  out(0, 'L');
  EXPECT_EQ(in(0), 'L');
  EXPECT_TRUE(said_.empty());
}

TEST_F(SerialTest, TheDivisorHidesBehindItsLatch) {
  out(3, 0x83);
  out(0, 0x34);
  out(1, 0x12);
  EXPECT_EQ(in(0), 0x34u);
  EXPECT_EQ(in(1), 0x12u);
  out(3, 0x03);
  EXPECT_EQ(in(1), 0u);
  EXPECT_EQ(in(0), 0u);
  EXPECT_TRUE(said_.empty());
}

TEST_F(SerialTest, IsLoadedAsItWasSaved) {
  out(1, 3);
  out(2, 1);
  out(3, 3);
  out(4, 8);
  out(7, 0x5A);
  Serial other(vmm::InterruptLine::create().value(), [](std::byte) {});
  other.load(serial_.save());
  for (std::uint64_t offset = 1; offset < 8; ++offset) {
    std::array<std::byte, 1> byte = {};
    other.read(offset, byte);
    EXPECT_EQ(std::to_integer<unsigned>(byte[0]), in(offset)) << offset;
  }
}

// KVM may not have passed it on when the machine was saved.
TEST_F(SerialTest, AnInterruptThatIsDueIsRaisedAgainWhenItIsLoaded) {
  Serial other(vmm::InterruptLine::create().value(), [](std::byte) {});
  eventfd_t raised = 0;
  other.load(serial_.save());
  EXPECT_NE(::eventfd_read(other.line().event().get(), &raised), 0) << "nothing is due";
  out(1, 2);  // it may be interrupted once it has room to transmit, which it has
  other.load(serial_.save());
  EXPECT_EQ(::eventfd_read(other.line().event().get(), &raised), 0);
}

TEST_F(SerialTest, AnyAccessHasAnAnswer) {
  std::array<std::byte, 8> wide = {};
  for (std::uint64_t offset = 0; offset < 8; ++offset) {
    for (const std::size_t bytes : {1u, 2u, 4u, 8u}) {
      serial_.write(offset, std::span(wide).first(bytes));
      serial_.read(offset, std::span(wide).first(bytes));
    }
  }
}

}  // namespace
}  // namespace volt::pc
