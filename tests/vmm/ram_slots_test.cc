// Memory that gets its slot only when the guest reaches for it must behave like memory that had one
// all along: every kind of access, on both sides of every border, gives the same answer and leaves
// the same bytes.
#include "vmm/ram_slots.h"

#include <gtest/gtest.h>

#include "tests/guest/reach_abi.h"
#include "tests/vmm/guest_fixture.h"
#include "vmm/identity.h"
#include "vmm/micro_cpu.h"

namespace volt::test {
namespace {

using reach::Access;

constexpr std::uint64_t kRam = std::uint64_t{4} << 30;  // two regions
constexpr std::uint64_t kDataEnd = 8 << 20;             // what has a slot from the start
constexpr std::uint64_t kMiddle = 0x800'0000;           // in the low region's rest
constexpr std::uint64_t kHigh = guest_abi::kHighRamBase + 0x10'0000;  // a region without any slot
constexpr std::uint64_t kValue = 0x1122'3344'55AA'8899;
constexpr std::size_t kAround = 8192;

struct Outcome {
  std::vector<std::byte> answer;
  std::vector<std::byte> memory;  // around the address, afterwards
  bool late = false;              // memory was attached when the guest reached for it
};

class RamSlotsTest : public GuestTest {
 protected:
  // A `reach` guest at its ready point, with a pattern around `address`.
  std::unique_ptr<vmm::Machine> start(vmm::Attach how, std::uint64_t address) const {
    const vmm::GuestImage image = vmm::GuestImage::parse(reach_image()).value();
    vmm::GuestMemory plain = vmm::GuestMemory::anonymous(*vmm::ram_layout(kRam)).value();
    EXPECT_TRUE(image.load(plain));
    std::vector<std::uint64_t> pattern(2 * kAround / 8);
    for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = guest_abi::seeded_word(3, i);
    EXPECT_TRUE(plain.write(page_of(address) - kAround, std::as_bytes(std::span(pattern))));
    // Only the part below kDataEnd counts as holding data.
    std::vector<vmm::GuestMemory::Region> regions;
    for (const auto& region : plain.regions()) {
      auto& from = const_cast<vmm::GuestMemory::Region&>(region);
      regions.push_back({from.guest_base, std::move(from.host), {}});
    }
    regions[0].backed = {{0, kDataEnd}};
    auto machine = vmm::Machine::build(kvm(), 1).value();
    EXPECT_TRUE(machine->attach_memory(vmm::GuestMemory(std::move(regions)), how));
    const guest_abi::Note& note = image.note();
    machine->start(vmm::micro_regs(note.entry, note.stack_top, guest_abi::kWindowBase),
                   vmm::micro_sregs(note));
    EXPECT_EQ(machine->run(soon()).value().kind, vmm::Doorbell::Kind::kReady);
    return machine;
  }

  Outcome reach_for(vmm::Attach how, Access access, std::uint64_t address) const {
    const auto machine = start(how, address);
    const bool before = machine->ram().all_attached();
    Outcome outcome;
    const Result<vmm::Reply> reply = call(*machine, Function{reach::kFunction},
                                          {static_cast<std::uint64_t>(access), address, kValue});
    EXPECT_TRUE(reply) << reply.error().context;
    if (reply) outcome.answer = reply->data;
    outcome.memory.resize(2 * kAround);
    EXPECT_TRUE(machine->memory().read(page_of(address) - kAround, outcome.memory));
    outcome.late = !before && machine->ram().all_attached();
    return outcome;
  }

  static std::uint64_t page_of(std::uint64_t address) {
    return (address + 8) / guest_abi::kPageBytes * guest_abi::kPageBytes;
  }
};

TEST_F(RamSlotsTest, EveryKindOfAccessBeyondTheDataWorksAsIfItHadASlot) {
  struct Place {
    const char* name;
    std::uint64_t address;
  };
  const Place places[] = {
      {"aligned", kMiddle},
      {"unaligned", kMiddle + 24 + 5},
      {"across two pages", kMiddle + guest_abi::kPageBytes - 3},
      {"above the hole", kHigh},
      {"across two pages above the hole", kHigh + guest_abi::kPageBytes - 5},
  };
  for (const Place& place : places) {
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(Access::kCount); ++i) {
      const Access access{i};
      if (access == Access::kSseAlignedLoad && place.address % 16 != 0) continue;
      const Outcome late = reach_for(vmm::Attach::kDataFirst, access, place.address);
      const Outcome all = reach_for(vmm::Attach::kAll, access, place.address);
      EXPECT_TRUE(late.late) << place.name << ", access " << i;
      EXPECT_EQ(late.answer, all.answer) << place.name << ", access " << i;
      EXPECT_EQ(late.memory, all.memory) << place.name << ", access " << i;
    }
  }
}

TEST_F(RamSlotsTest, AnAccessAcrossTheBorderOfASlotIsWhole) {
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(Access::kCount); ++i) {
    const Access access{i};
    if (access == Access::kSseAlignedLoad) continue;
    const Outcome late = reach_for(vmm::Attach::kDataFirst, access, kDataEnd - 3);
    const Outcome all = reach_for(vmm::Attach::kAll, access, kDataEnd - 3);
    EXPECT_EQ(late.answer, all.answer) << "access " << i;
    EXPECT_EQ(late.memory, all.memory) << "access " << i;
  }
}

TEST_F(RamSlotsTest, AccessesWithinTheDataAttachNothing) {
  const auto machine = start(vmm::Attach::kDataFirst, kMiddle);
  EXPECT_EQ(machine->ram().attached().size(), 1u);
  ASSERT_TRUE(call(*machine, Function{reach::kFunction},
                   {static_cast<std::uint64_t>(Access::kStore64), 0x60'0000, kValue}));
  EXPECT_FALSE(machine->ram().all_attached());
}

TEST_F(RamSlotsTest, AnAddressThatIsNoRamIsACrashBeforeAndAfter) {
  const std::uint64_t beyond = guest_abi::kHighRamBase + (kRam - guest_abi::kLowRamEnd);
  const auto machine = start(vmm::Attach::kDataFirst, kMiddle);
  const auto reached = call(*machine, Function{reach::kFunction},
                            {static_cast<std::uint64_t>(Access::kLoad64), beyond, 0});
  ASSERT_FALSE(reached);
  EXPECT_EQ(reached.error().code, Code::kGuestCrashed);
  EXPECT_FALSE(machine->ram().all_attached());
}

TEST_F(RamSlotsTest, ASmallRestGetsItsSlotAtOnce) {
  auto machine = vmm::Machine::build(kvm(), 1).value();
  auto memory = vmm::GuestMemory::anonymous(*vmm::ram_layout(16 << 20)).value();
  ASSERT_TRUE(machine->attach_memory(std::move(memory), vmm::Attach::kDataFirst));
  EXPECT_TRUE(machine->ram().all_attached());
}

TEST_F(RamSlotsTest, SeveralCpusGetAllMemoryAtOnce) {
  auto machine = vmm::Machine::build(kvm(), 2).value();
  auto memory = vmm::GuestMemory::anonymous(*vmm::ram_layout(256 << 20)).value();
  ASSERT_TRUE(machine->attach_memory(std::move(memory), vmm::Attach::kDataFirst));
  EXPECT_TRUE(machine->ram().all_attached());
}

}  // namespace
}  // namespace volt::test
