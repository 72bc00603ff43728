// The guest's file against its specification: what the host, the CPU and other VMMs rely on.
// Several of these mistakes would boot on one host and crash on another.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "tests/tools/guest/image.h"

namespace volt {
namespace {

constexpr std::uint64_t kRing0Text = 0x10'0000;
constexpr std::uint64_t kGdt = 0x10'1000;
constexpr std::uint64_t kIdt = 0x10'1100;
constexpr std::uint64_t kTss = 0x10'1400;
constexpr std::uint64_t kIstTop = 0x10'3000;
constexpr std::uint64_t kTables = 0x10'3000;
constexpr std::uint64_t kTablesEnd = 0x11'7000;
constexpr std::uint64_t kText = 0x20'0000;
constexpr std::uint64_t kData = 0x40'0000;
constexpr std::uint64_t kHeap = 0x60'0000;
constexpr std::uint64_t kLarge = 0x20'0000;
constexpr std::uint64_t kPage = guest_abi::kPageBytes;
constexpr std::uint64_t kHighRamEnd = std::uint64_t{17} << 30;

constexpr std::uint64_t kStubs = 0x10'0200;
constexpr std::uint64_t kStubBytes = 16;
constexpr std::uint64_t kPanic = 0x10'0400;
constexpr std::uint32_t kVectors = 32;

TEST(GuestImage, XenNoteNamesThePvhEntryInEightBytes) {
  const Image image;
  const auto note = image.note("Xen", 18);
  ASSERT_TRUE(note.has_value());
  ASSERT_EQ(note->size(), 8u);
  std::uint64_t entry;
  std::memcpy(&entry, note->data(), sizeof entry);
  EXPECT_EQ(entry, kRing0Text);
  EXPECT_EQ(image.header().e_entry, kRing0Text);
}

TEST(GuestImage, VoltNoteHoldsTheFixedAddresses) {
  const guest_abi::Note note = Image().volt_note();
  EXPECT_EQ(note.abi, guest_abi::kVersion);
  EXPECT_EQ(note.reserved, 0u);
  EXPECT_EQ(note.reserved2, 0u);
  EXPECT_EQ(note.entry, kText);
  EXPECT_EQ(note.resume_entry, kText + 0x10);
  EXPECT_EQ(note.stack_top, 0x40'4800u);
  EXPECT_EQ(note.cr3, 0x10'4000u);
  EXPECT_EQ(note.gdt_base, kGdt);
  EXPECT_EQ(note.gdt_limit, 0x3Fu);
  EXPECT_EQ(note.idt_base, kIdt);
  EXPECT_EQ(note.idt_limit, 0x1FFu);
  EXPECT_EQ(note.tss_base, kTss);
  EXPECT_EQ(note.tss_limit, 0x168u);
  EXPECT_EQ(note.min_ram_bytes, kHeap);
}

TEST(GuestImage, MutableRangeIsSmallAndHoldsStackAndData) {
  const Image image;
  const guest_abi::Note note = image.volt_note();
  EXPECT_EQ(note.mutable_base, kData);
  EXPECT_LE(note.mutable_bytes, 0x1'0000u);
  EXPECT_EQ(note.mutable_bytes % kPage, 0u);
  EXPECT_GT(note.stack_top, note.mutable_base);
  EXPECT_LT(note.stack_top, note.mutable_base + note.mutable_bytes);
  // Stack top and hot data share a page: the segment that starts it goes on behind the stack.
  const auto loads = image.loads();
  EXPECT_TRUE(std::ranges::any_of(loads, [&](const Elf64_Phdr& segment) {
    return segment.p_vaddr == note.stack_top / kPage * kPage &&
           segment.p_vaddr + segment.p_memsz > note.stack_top;
  }));
}

TEST(GuestImage, SegmentsAreApartPageAlignedAndAboveOneMegabyte) {
  const Image image;
  std::uint64_t end = 0x10'0000;
  for (const Elf64_Phdr& segment : image.loads()) {
    EXPECT_GE(segment.p_paddr, end);
    EXPECT_EQ(segment.p_paddr, segment.p_vaddr);
    EXPECT_EQ(segment.p_paddr % kPage, 0u);
    EXPECT_LE(segment.p_filesz, segment.p_memsz);
    EXPECT_NE(segment.p_flags & (PF_W | PF_X), static_cast<unsigned>(PF_W | PF_X));
    end = segment.p_paddr + segment.p_memsz;
  }
  EXPECT_LE(end, kHeap);
  EXPECT_LT(image.file_bytes(), 256u << 10);
}

struct Descriptor {
  std::uint64_t base, limit;
  unsigned type, dpl;
  bool system, present, long_mode, wide, granular;
};

Descriptor decode(std::uint64_t low, std::uint64_t high) {
  return {
      .base = (low >> 16 & 0xFF'FFFF) | (low >> 56) << 24 | high << 32,
      .limit = (low & 0xFFFF) | (low >> 32 & 0xF'0000),
      .type = static_cast<unsigned>(low >> 40 & 15),
      .dpl = static_cast<unsigned>(low >> 45 & 3),
      .system = (low >> 44 & 1) == 0,
      .present = (low >> 47 & 1) != 0,
      .long_mode = (low >> 53 & 1) != 0,
      .wide = (low >> 54 & 1) != 0,
      .granular = (low >> 55 & 1) != 0,
  };
}

TEST(GuestImage, GdtDecodesToTheSegmentsTheHostLoads) {
  const Image image;
  struct {
    std::uint16_t selector;
    unsigned type, dpl;
    bool long_mode, wide;
  } const expected[] = {
      {0x08, 0xB, 0, false, true},
      {0x10, 0xB, 0, true, false},
      {0x18, 0x3, 0, false, true},
      {guest_abi::kUserDataSelector, 0x3, 3, false, true},
      {guest_abi::kUserCodeSelector, 0xB, 3, true, false},
  };
  for (const auto& want : expected) {
    SCOPED_TRACE(want.selector);
    const Descriptor found = decode(image.at<std::uint64_t>(kGdt + (want.selector & ~7u)), 0);
    EXPECT_TRUE(found.present && !found.system && found.granular);
    EXPECT_EQ(found.type, want.type);  // bit 0: accessed is preset
    EXPECT_EQ(found.dpl, want.dpl);
    EXPECT_EQ(found.dpl, want.selector & 3u);
    EXPECT_EQ(found.long_mode, want.long_mode);
    EXPECT_EQ(found.wide, want.wide);
    EXPECT_EQ(found.base, 0u);
    EXPECT_EQ(found.limit, 0xF'FFFFu);
  }
  const Descriptor tss = decode(image.at<std::uint64_t>(kGdt + guest_abi::kTssSelector),
                                image.at<std::uint64_t>(kGdt + guest_abi::kTssSelector + 8));
  EXPECT_TRUE(tss.present && tss.system && !tss.granular);
  EXPECT_EQ(tss.type, 9u);  // LTR refuses a busy one
  EXPECT_EQ(tss.base, kTss);
  EXPECT_EQ(tss.limit, image.volt_note().tss_limit);
  EXPECT_EQ(image.at<std::uint64_t>(kGdt), 0u);
}

TEST(GuestImage, EveryGateLeadsToItsStubOnTheIstStack) {
  const Image image;
  EXPECT_EQ(image.at<std::uint64_t>(kTss + 0x24), kIstTop);
  for (std::uint32_t vector = 0; vector < kVectors; ++vector) {
    SCOPED_TRACE(vector);
    const auto low = image.at<std::uint64_t>(kIdt + vector * 16);
    const auto high = image.at<std::uint64_t>(kIdt + vector * 16 + 8);
    const std::uint64_t offset = (low & 0xFFFF) | (low >> 32 & 0xFFFF'0000) | high << 32;
    EXPECT_EQ(offset, kStubs + vector * kStubBytes);
    EXPECT_EQ(low >> 16 & 0xFFFF, 0x10u);
    EXPECT_EQ(low >> 32 & 7, 1u);        // IST1
    EXPECT_EQ(low >> 40 & 0xFF, 0x8Eu);  // present, DPL 0, interrupt gate
  }
}

TEST(GuestImage, StubsPushAnErrorCodeWhereTheCpuDoesNot) {
  const Image image;
  const std::set<std::uint32_t> with_error = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30};
  for (std::uint32_t vector = 0; vector < kVectors; ++vector) {
    SCOPED_TRACE(vector);
    std::uint64_t at = kStubs + vector * kStubBytes;
    if (!with_error.contains(vector)) {
      EXPECT_EQ(image.at<std::uint16_t>(at), 0x006A);  // push $0
      at += 2;
    }
    EXPECT_EQ(image.at<std::uint16_t>(at), 0x6A | vector << 8);  // push $vector
    at += 2;
    if (image.at<std::uint8_t>(at) == 0xEB) {
      EXPECT_EQ(at + 2 + static_cast<std::uint64_t>(image.at<std::int8_t>(at + 1)), kPanic);
    } else {
      ASSERT_EQ(image.at<std::uint8_t>(at), 0xE9);
      EXPECT_EQ(at + 5 + static_cast<std::uint64_t>(image.at<std::int32_t>(at + 1)), kPanic);
    }
  }
}

TEST(GuestImage, PanicCodeRingsPanicThenDebugExitThenHalts) {
  const Image image;
  constexpr std::array<std::uint8_t, 17> kCode = {
      0x50, 0x52,                    // push %rax; push %rdx
      0xBA, 0x64, 0x05, 0x00, 0x00,  // mov $kPortPanic, %edx
      0x8B, 0x44, 0x24, 0x10,        // mov 16(%rsp), %eax
      0xEF, 0xE6, 0xF4,              // out %eax, %dx; out %al, $0xF4
      0xF4, 0xEB, 0xFD,              // hlt; jmp back to it
  };
  EXPECT_EQ((image.at<std::array<std::uint8_t, kCode.size()>>(kPanic)), kCode);
}

// Some hosts emulate ring 0 instruction by instruction, without SSE, string or trap instructions.
// No decoder here: none of these bytes may occur even as part of a constant. The stubs and what
// they jump to are held byte by byte above.
TEST(GuestImage, Ring0HasNoPrefixesNoTrapsAndOnlySystemOpcodes) {
  const Image image;
  // ltr; lgdt, lidt; mov to cr; wrmsr
  const std::set<std::uint8_t> after_0f = {0x00, 0x01, 0x22, 0x30};
  for (std::uint64_t at = kRing0Text; at < kStubs; ++at) {
    SCOPED_TRACE(at);
    const auto byte = image.at<std::uint8_t>(at);
    EXPECT_NE(byte, 0xF2);
    EXPECT_NE(byte, 0xF3);
    EXPECT_NE(byte, 0xCC);
    if (byte == 0x0F) {
      EXPECT_TRUE(after_0f.contains(image.at<std::uint8_t>(at + 1)));
    }
  }
}

TEST(GuestImage, TssAllowsExactlyTheSpecifiedPorts) {
  const Image image;
  const std::uint64_t bitmap = image.at<std::uint16_t>(kTss + 0x66);
  EXPECT_EQ(bitmap, 0x68u);
  std::set<std::uint32_t> allowed = {0x60, 0x64, 0x80, 0xE9, 0xF4, 0x501, 0x600};
  for (std::uint32_t port = 0x3F8; port <= 0x3FF; ++port) allowed.insert(port);
  for (std::uint32_t port = 0x560; port <= 0x56F; ++port) allowed.insert(port);
  for (std::uint32_t port = 0; port < 0x800; ++port) {
    const auto byte = image.at<std::uint8_t>(kTss + bitmap + port / 8);
    EXPECT_EQ((byte >> (port % 8) & 1) == 0, allowed.contains(port)) << std::hex << port;
  }
  // The CPU reads two bytes for each port, so the limit reaches one byte beyond the bitmap.
  EXPECT_EQ(image.volt_note().tss_limit, bitmap + 0x800 / 8);
  EXPECT_EQ(image.at<std::uint8_t>(kTss + image.volt_note().tss_limit), 0xFF);
}

TEST(GuestImage, DoorbellsAreOnAllowedPorts) {
  const Image image;
  for (const std::uint16_t port :
       {guest_abi::kPortReady, guest_abi::kPortPark, guest_abi::kPortDone, guest_abi::kPortHostCall,
        guest_abi::kPortExit, guest_abi::kPortKick}) {
    for (std::uint32_t part = port; part < port + 4u; ++part) {  // a 32-bit OUT is checked whole
      const auto byte = image.at<std::uint8_t>(kTss + 0x68 + part / 8);
      EXPECT_EQ(byte >> (part % 8) & 1, 0) << std::hex << port;
    }
  }
}

void expect_leaf(const Image& image, std::uint64_t linear, std::string_view rights) {
  const auto leaf = walk(image, linear);
  ASSERT_TRUE(leaf.has_value()) << std::hex << linear;
  EXPECT_EQ(leaf->physical + (linear & (leaf->bytes - 1)), linear) << std::hex << linear;
  EXPECT_EQ(leaf->user, rights.contains('u')) << std::hex << linear;
  EXPECT_EQ(leaf->writable, rights.contains('w')) << std::hex << linear;
  EXPECT_EQ(leaf->executable, rights.contains('x')) << std::hex << linear;
  EXPECT_TRUE(leaf->preset) << std::hex << linear;
  EXPECT_EQ(leaf->uncached,
            linear >= guest_abi::kLowRamEnd && linear < guest_abi::kLowRamEnd + kLarge)
      << std::hex << linear;
}

TEST(GuestImage, LowMemoryIsMappedPageByPage) {
  const Image image;
  for (std::uint64_t linear = 0; linear < kText; linear += kPage) {
    if (linear == 0 || linear >= kTables) {
      EXPECT_FALSE(walk(image, linear).has_value()) << std::hex << linear;
    } else if (linear < kRing0Text) {
      expect_leaf(image, linear, "u");
    } else {
      expect_leaf(image, linear, linear == kRing0Text ? "x" : "w");
    }
  }
}

TEST(GuestImage, RamIsMappedInLargePagesAndTheRestIsAbsent) {
  const Image image;
  for (std::uint64_t linear = kText; linear < kHighRamEnd + (kLarge << 9); linear += kLarge) {
    const bool is_ram = linear < guest_abi::kLowRamEnd ||
                        (linear >= guest_abi::kHighRamBase && linear < kHighRamEnd);
    const bool is_device = linear == guest_abi::kLowRamEnd || linear == guest_abi::kWindowBase;
    if (is_ram || is_device) {
      expect_leaf(image, linear, linear == kText ? "ux" : "uw");
    } else {
      EXPECT_FALSE(walk(image, linear).has_value()) << std::hex << linear;
    }
  }
}

TEST(GuestImage, NothingIsMappedFromEighteenGigabytesOn) {
  const Image image;
  const std::uint64_t pml4 = image.volt_note().cr3;
  for (std::uint64_t i = 1; i < 512; ++i) EXPECT_EQ(image.at<std::uint64_t>(pml4 + i * 8), 0u);
  const std::uint64_t pdpt = image.at<std::uint64_t>(pml4) & ~(kPage - 1);
  EXPECT_EQ(pdpt, 0x10'5000u);
  for (std::uint64_t i = 17; i < 512; ++i) EXPECT_EQ(image.at<std::uint64_t>(pdpt + i * 8), 0u);
}

TEST(GuestImage, ItsPageTablesLieInTheirOwnSegment) {
  const auto loads = Image().loads();
  EXPECT_TRUE(std::ranges::any_of(loads, [](const Elf64_Phdr& segment) {
    return segment.p_paddr == kTables && segment.p_paddr + segment.p_filesz == kTablesEnd;
  }));
}

}  // namespace
}  // namespace volt
