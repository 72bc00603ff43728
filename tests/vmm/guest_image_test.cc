#include "vmm/guest_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "tests/guest/test_guests.h"
#include "tests/vmm/elf_builder.h"
#include "tools/guest/micro_image.h"

namespace volt::vmm {
namespace {

constexpr std::uint64_t kHuge = ~std::uint64_t{0};

GuestMemory two_mib() {
  const RegionLayout layout[] = {{.guest_base = 0, .bytes = 2 << 20}};
  return GuestMemory::anonymous(layout).value();
}

Result<GuestImage> parse_changed(const std::function<void(ElfParts&)>& change,
                                 std::vector<std::byte>& file) {
  ElfParts parts = good_elf();
  change(parts);
  file = bytes_of(parts);
  return GuestImage::parse(file);
}

TEST(GuestImageTest, AGoodFileIsLoadedWhereItSays) {
  const std::vector<std::byte> file = bytes_of(good_elf());
  const Result<GuestImage> image = GuestImage::parse(file);
  ASSERT_TRUE(image) << image.error().context;
  EXPECT_EQ(image->note().entry, 0x10'0000u);
  const GuestMemory memory = two_mib();
  ASSERT_TRUE(image->load(memory));
  std::vector<std::byte> code(17);
  ASSERT_TRUE(memory.read(0x10'0000, code));
  EXPECT_TRUE(std::ranges::all_of(code.begin(), code.end() - 1,
                                  [](std::byte each) { return each == std::byte{0xC3}; }));
  EXPECT_EQ(code.back(), std::byte{0}) << "what the file has no bytes for is zero";
}

TEST(GuestImageTest, OurOwnGuestsAreAccepted) {
  EXPECT_TRUE(GuestImage::parse(tools::micro_image()));
  EXPECT_TRUE(GuestImage::parse(test::nonsense_image()));
  const Result<GuestImage> exact = GuestImage::parse(test::exact_image());
  ASSERT_TRUE(exact) << exact.error().context;
  EXPECT_EQ(exact->note().resume_entry, 0u);
}

struct Wrong {
  const char* what;  // part of the message
  std::function<void(ElfParts&)> change;
  Code code = Code::kCorrupt;
};

void expect_refused(std::span<const Wrong> table) {
  for (const Wrong& wrong : table) {
    std::vector<std::byte> file;
    const Result<GuestImage> image = parse_changed(wrong.change, file);
    ASSERT_FALSE(image) << "accepted: " << wrong.what;
    EXPECT_EQ(image.error().code, wrong.code) << wrong.what;
    EXPECT_NE(image.error().context.find(wrong.what), std::string::npos) << image.error().context;
  }
}

TEST(GuestImageTest, AWrongHeadIsRefused) {
  const Wrong kTable[] = {
      {"not an ELF file", [](ElfParts& p) { p.head.e_ident[0] = 'E'; }},
      {"not for x86-64", [](ElfParts& p) { p.head.e_ident[EI_CLASS] = ELFCLASS32; },
       Code::kUnsupported},
      {"not for x86-64", [](ElfParts& p) { p.head.e_machine = EM_AARCH64; }, Code::kUnsupported},
      {"program headers: wrong size", [](ElfParts& p) { p.head.e_phentsize = 32; }},
      {"more than 64", [](ElfParts& p) { p.head.e_phnum = 65; }},
      {"program headers: past the end", [](ElfParts& p) { p.head.e_phoff = sizeof(ElfParts); }},
      {"program headers: past the end", [](ElfParts& p) { p.head.e_phoff = kHuge; }},
      {"program headers: past the end", [](ElfParts& p) { p.head.e_phoff = kHuge - 55; }},
      {"no Volt note", [](ElfParts& p) { p.head.e_phnum = 0; }},
      {"no Volt note", [](ElfParts& p) { p.head.e_phnum = 1; }},
  };
  expect_refused(kTable);
}

TEST(GuestImageTest, ASegmentThatIsNotWhereItCanBeIsRefused) {
  const Wrong kTable[] = {
      {"segment 0: past the end", [](ElfParts& p) { p.text.p_filesz = 17; }},
      {"segment 0: past the end", [](ElfParts& p) { p.text.p_filesz = kHuge; }},
      {"segment 0: past the end", [](ElfParts& p) { p.text.p_offset = sizeof(ElfParts) + 1; }},
      {"segment 0: past the end", [](ElfParts& p) { p.text.p_offset = kHuge; }},
      {"segment 0: past the end",
       [](ElfParts& p) { p.text.p_offset = kHuge - 7, p.text.p_filesz = 16; }},
      {"segment 1: past the end", [](ElfParts& p) { p.notes.p_filesz = kHuge; }},
      {"below 1 MiB", [](ElfParts& p) { p.text.p_paddr = 0xF'FFFF; }},
      {"below 1 MiB", [](ElfParts& p) { p.text.p_paddr = 0; }},
      {"larger than its memory", [](ElfParts& p) { p.text.p_memsz = 15; }},
      {"its end wraps", [](ElfParts& p) { p.text.p_memsz = kHuge; }},
      {"its end wraps", [](ElfParts& p) { p.text.p_paddr = kHuge - 0xFFE; }},
  };
  expect_refused(kTable);
}

TEST(GuestImageTest, AWrongNoteIsRefused) {
  const Wrong kTable[] = {
      {"past its segment", [](ElfParts& p) { p.notes.p_filesz -= 1; }},
      {"past its segment", [](ElfParts& p) { p.notes.p_filesz = sizeof p.note_head; }},
      {"past its segment", [](ElfParts& p) { p.note_head.n_descsz = 0xFFFF'FFFF; }},
      {"past its segment", [](ElfParts& p) { p.note_head.n_namesz = 0xFFFF'FFFF; }},
      {"103 bytes", [](ElfParts& p) { p.note_head.n_descsz = 103; }},
      {"0 bytes", [](ElfParts& p) { p.note_head.n_descsz = 0; }},
      {"no Volt note", [](ElfParts& p) { p.note_head.n_type = 2; }},
      {"no Volt note", [](ElfParts& p) { p.note_name[0] = 'v'; }},
      {"no Volt note", [](ElfParts& p) { p.note_name[4] = 's'; }},
      {"no Volt note", [](ElfParts& p) { p.notes.p_filesz = 0; }},
      {"no Volt note", [](ElfParts& p) { p.notes.p_type = PT_NULL; }},
      {"reserved", [](ElfParts& p) { p.note.reserved = 1; }},
      {"reserved", [](ElfParts& p) { p.note.reserved2 = 1; }},
      {"limit", [](ElfParts& p) { p.note.gdt_limit = 0x1'0000; }},
      {"limit", [](ElfParts& p) { p.note.idt_limit = 0x1'0000; }},
      {"mutable range", [](ElfParts& p) { p.note.mutable_bytes = kHuge; }},
      {"mutable range",
       [](ElfParts& p) { p.note.mutable_base = kHuge - 4095, p.note.mutable_bytes = 8192; }},
  };
  expect_refused(kTable);
}

TEST(GuestImageTest, AnotherAbiIsUnsupportedAndNamed) {
  for (const std::uint32_t abi : {0u, guest_abi::kVersion + 1, 0xFFFF'FFFFu}) {
    std::vector<std::byte> file;
    const auto image = parse_changed([abi](ElfParts& p) { p.note.abi = abi; }, file);
    ASSERT_FALSE(image);
    EXPECT_EQ(image.error().code, Code::kUnsupported);
    EXPECT_NE(image.error().context.find("abi " + std::to_string(abi)), std::string::npos);
  }
}

TEST(GuestImageTest, NotesOfOthersBeforeOursAreSkipped) {
  ElfParts parts = good_elf();
  std::vector<std::byte> file = bytes_of(parts);
  // Two notes at the file's end: a foreign one of odd length, then ours.
  const Elf64_Nhdr foreign = {.n_namesz = 4, .n_descsz = 5, .n_type = guest_abi::kNoteType};
  const std::size_t start = file.size();
  const auto append = [&file](const void* data, std::size_t bytes) {
    const auto* const first = static_cast<const std::byte*>(data);
    file.insert(file.end(), first, first + bytes);
  };
  append(&foreign, sizeof foreign);
  append("Xen\0\1\2\3\4\5\0\0\0", 12);
  append(&parts.note_head, offsetof(ElfParts, code) - offsetof(ElfParts, note_head));
  parts.notes.p_offset = start;
  parts.notes.p_filesz = file.size() - start;
  std::memcpy(file.data() + offsetof(ElfParts, notes), &parts.notes, sizeof parts.notes);
  const Result<GuestImage> image = GuestImage::parse(file);
  ASSERT_TRUE(image) << image.error().context;
  EXPECT_EQ(image->note().min_ram_bytes, 0x20'0000u);
}

// Run under the address sanitizer: the copies end where the file does.
TEST(GuestImageTest, EveryTruncationIsCorrupt) {
  const std::vector<std::byte> whole = bytes_of(good_elf());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<long>(n));
    const Result<GuestImage> image = GuestImage::parse(cut);
    ASSERT_FALSE(image) << "accepted " << n << " bytes";
    EXPECT_EQ(image.error().code, Code::kCorrupt) << n;
  }
}

TEST(GuestImageTest, SegmentsOutsideTheMemoryGivenAreRefusedWhenLoaded) {
  constexpr std::uint64_t kEnd = 2 << 20;
  for (const std::uint64_t address : {kEnd, kEnd - 0xFFF, kHuge - 0x1000}) {
    std::vector<std::byte> file;
    const auto image = parse_changed([&](ElfParts& p) { p.text.p_paddr = address; }, file);
    ASSERT_TRUE(image) << image.error().context;
    const Result<> loaded = image->load(two_mib());
    ASSERT_FALSE(loaded) << address;
    EXPECT_EQ(loaded.error().code, Code::kInvalid);
  }
}

TEST(GuestImageTest, ASegmentLargerThanAnyMemoryIsRefusedWhenLoaded) {
  std::vector<std::byte> file;
  const auto image =
      parse_changed([](ElfParts& p) { p.text.p_memsz = kHuge - p.text.p_paddr; }, file);
  ASSERT_TRUE(image) << image.error().context;
  EXPECT_FALSE(image->load(two_mib()));
}

}  // namespace
}  // namespace volt::vmm
