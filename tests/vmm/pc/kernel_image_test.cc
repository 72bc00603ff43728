#include "vmm/pc/kernel_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>

#include "tests/vmm/pc/kernel_builder.h"
#include "vmm/os/file.h"

namespace volt::pc {
namespace {

constexpr std::uint64_t kHuge = ~std::uint64_t{0};
constexpr Entry kEntries[] = {Entry::kLinux64, Entry::kPvh, Entry::kBzImage};

void expect_refused(const Result<KernelImage>& image, Code code, const std::string& what) {
  ASSERT_FALSE(image) << "accepted: " << what;
  EXPECT_EQ(image.error().code, code) << what << ": " << image.error().context;
  EXPECT_NE(image.error().context.find(what), std::string::npos) << image.error().context;
}

void expect_test_kernel(const Result<KernelImage>& image) {
  ASSERT_TRUE(image) << image.error().context;
  EXPECT_EQ(image->start(), kTestKernel);
  EXPECT_EQ(image->end(), kTestKernel + kTestKernelMemory);
  ASSERT_EQ(image->segments().size(), 1u);
  const std::span<const std::byte> bytes = image->segments()[0].bytes;
  EXPECT_EQ(bytes.size(), sizeof VmlinuxParts().code);
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte each) { return each == std::byte{0xF4}; }));
}

TEST(KernelImageTest, AVmlinuxIsLoadedAndEnteredWhereItSays) {
  const Bytes file = bytes_of(good_vmlinux());
  const Result<KernelImage> image = KernelImage::parse(file);
  expect_test_kernel(image);
  EXPECT_EQ(image->entry_address(), kTestKernel);
  EXPECT_EQ(image->version(), "9.8");
  EXPECT_TRUE(image->setup_header().empty());
  const Result<KernelImage> pvh = KernelImage::parse(file, Entry::kPvh);
  expect_test_kernel(pvh);
  EXPECT_EQ(pvh->entry_address(), kTestKernel + 32);
}

TEST(KernelImageTest, ABzImageIsUnpacked) {
  const Bytes vmlinux = bytes_of(good_vmlinux());
  BzImageParts parts = good_bz_image();
  for (const Bytes& payload :
       {with_size(lz4_of(vmlinux), vmlinux.size()), with_size(zstd_of(vmlinux), vmlinux.size()),
        with_size(xz_of(vmlinux), vmlinux.size()), gzip_of(vmlinux)}) {
    parts.payload = payload;
    // What is unpacked outlives the parse, wherever the image moves to.
    Result<KernelImage> parsed = KernelImage::parse(bytes_of(parts), Entry::kPvh);
    ASSERT_TRUE(parsed) << parsed.error().context;
    const Result<KernelImage> image = std::move(parsed);
    expect_test_kernel(image);
    EXPECT_EQ(image->entry_address(), kTestKernel + 32);
    EXPECT_EQ(image->version(), "6.1.0-test");
    EXPECT_EQ(image->command_line_most(), 100u);
    EXPECT_EQ(image->initrd_last(), 0x7FFF'FFFFu);
  }
}

TEST(KernelImageTest, ABzImageAsItIsTakesRoomToUnpackItself) {
  const Bytes file = bytes_of(good_bz_image());
  const Result<KernelImage> image = KernelImage::parse(file, Entry::kBzImage);
  ASSERT_TRUE(image) << image.error().context;
  EXPECT_EQ(image->entry_address(), kTestKernel + 0x200);
  EXPECT_EQ(image->start(), kTestKernel);
  EXPECT_EQ(image->end(), kTestKernel + 0x10'0000);
  EXPECT_TRUE(std::ranges::equal(image->segments()[0].bytes, std::span(file).subspan(1024)));
  ASSERT_EQ(image->setup_header().size(), 0x26Cu - 0x1F1u);
  EXPECT_EQ(image->setup_header().data(), file.data() + 0x1F1);
}

TEST(KernelImageTest, ABzImageOfAnyPackingCanUnpackItself) {
  BzImageParts parts = good_bz_image();
  parts.payload = with_size(Bytes(64, std::byte{0x5A}), 4096);
  const Bytes file = bytes_of(parts);
  EXPECT_TRUE(KernelImage::parse(file, Entry::kBzImage));
  expect_refused(KernelImage::parse(file), Code::kUnsupported, "payload: packed with");
}

TEST(KernelImageTest, AFileThatIsNoKernelIsCorrupt) {
  for (const std::size_t bytes : {0u, 3u, 1024u, 100'000u}) {
    for (const Entry entry : kEntries) {
      expect_refused(KernelImage::parse(Bytes(bytes), entry), Code::kCorrupt, "neither");
    }
  }
}

struct WrongHeader {
  const char* what;
  Code code;
  std::function<void(setup_header&)> change;
};

void expect_refused(std::span<const WrongHeader> table, Entry entry) {
  for (const WrongHeader& wrong : table) {
    const Bytes file = bytes_of(good_bz_image(), wrong.change);
    expect_refused(KernelImage::parse(file, entry), wrong.code, wrong.what);
  }
}

TEST(KernelImageTest, AWrongSetupHeaderIsRefused) {
  const WrongHeader kTable[] = {
      {"neither", Code::kCorrupt, [](setup_header& h) { h.boot_flag = 0; }},
      {"neither", Code::kCorrupt, [](setup_header& h) { h.header ^= 1; }},
      {"boot protocol 2.11", Code::kUnsupported, [](setup_header& h) { h.version = 0x20B; }},
      {"boot protocol 0.0", Code::kUnsupported, [](setup_header& h) { h.version = 0; }},
      {"not 64-bit", Code::kUnsupported, [](setup_header& h) { h.xloadflags = 0xFE; }},
      {"zImage", Code::kUnsupported, [](setup_header& h) { h.loadflags = 0xFE; }},
      {"setup_sects: past", Code::kCorrupt, [](setup_header& h) { h.setup_sects = 255; }},
      {"jump", Code::kCorrupt, [](setup_header& h) { h.jump = 0x00EB; }},
      {"jump", Code::kCorrupt, [](setup_header& h) { h.jump = 0x61EB; }},
      {"syssize: past", Code::kCorrupt, [](setup_header& h) { ++h.syssize; }},
      {"syssize: past", Code::kCorrupt, [](setup_header& h) { h.syssize = 0xFFFF'FFFF; }},
      {"syssize: too small", Code::kCorrupt, [](setup_header& h) { h.syssize = 0; }},
      {"syssize: too small", Code::kCorrupt, [](setup_header& h) { h.syssize = 32; }},
      {"kernel_version", Code::kCorrupt, [](setup_header& h) { h.kernel_version = 0x200; }},
      {"kernel_version", Code::kCorrupt, [](setup_header& h) { h.kernel_version = 0xFFFF; }},
  };
  for (const Entry entry : kEntries) expect_refused(kTable, entry);
}

TEST(KernelImageTest, AWrongPayloadIsRefused) {
  const WrongHeader kTable[] = {
      {"payload: past", Code::kCorrupt, [](setup_header& h) { h.payload_offset = 0xFFFF'FFFF; }},
      {"payload: past", Code::kCorrupt, [](setup_header& h) { h.payload_length = 0xFFFF'FFFF; }},
      {"payload: past", Code::kCorrupt, [](setup_header& h) { h.payload_length += 16; }},
      {"payload: too small", Code::kCorrupt, [](setup_header& h) { h.payload_length = 7; }},
      {"payload: lz4", Code::kCorrupt, [](setup_header& h) { --h.payload_length; }},
      {"payload: packed with", Code::kUnsupported, [](setup_header& h) { --h.payload_offset; }},
  };
  expect_refused(kTable, Entry::kLinux64);
}

TEST(KernelImageTest, AWrongPlaceForABzImageIsRefused) {
  const WrongHeader kTable[] = {
      {"pref_address: below", Code::kCorrupt, [](setup_header& h) { h.pref_address = 0xF'FFFF; }},
      {"pref_address: its end", Code::kCorrupt, [](setup_header& h) { h.pref_address = kHuge; }},
      {"init_size: smaller", Code::kCorrupt, [](setup_header& h) { h.init_size = 64; }},
  };
  expect_refused(kTable, Entry::kBzImage);
}

struct WrongVmlinux {
  const char* what;
  Code code;
  std::function<void(VmlinuxParts&)> change;
};

// As a file of its own, and as what a bzImage unpacks to.
void expect_refused(std::span<const WrongVmlinux> table) {
  for (const WrongVmlinux& wrong : table) {
    VmlinuxParts parts = good_vmlinux();
    wrong.change(parts);
    const Bytes vmlinux = bytes_of(parts);
    expect_refused(KernelImage::parse(vmlinux, Entry::kPvh), wrong.code, wrong.what);
    BzImageParts packed = good_bz_image();
    packed.payload = with_size(lz4_of(vmlinux), vmlinux.size());
    expect_refused(KernelImage::parse(bytes_of(packed), Entry::kPvh), wrong.code, wrong.what);
  }
}

TEST(KernelImageTest, AWrongElfHeadIsRefused) {
  using P = VmlinuxParts;
  const WrongVmlinux kTable[] = {
      {"x86-64", Code::kUnsupported, [](P& p) { p.head.e_ident[EI_CLASS] = ELFCLASS32; }},
      {"x86-64", Code::kUnsupported, [](P& p) { p.head.e_ident[EI_DATA] = ELFDATA2MSB; }},
      {"x86-64", Code::kUnsupported, [](P& p) { p.head.e_machine = EM_386; }},
      {"program headers: wrong", Code::kCorrupt, [](P& p) { p.head.e_phentsize = 32; }},
      {"more than 64", Code::kCorrupt, [](P& p) { p.head.e_phnum = 65; }},
      {"program headers: past", Code::kCorrupt, [](P& p) { p.head.e_phoff = sizeof(P) - 111; }},
      {"program headers: past", Code::kCorrupt, [](P& p) { p.head.e_phoff = kHuge; }},
      {"nothing to load", Code::kCorrupt, [](P& p) { p.head.e_phnum = 0; }},
      {"nothing to load", Code::kCorrupt, [](P& p) { p.text.p_type = PT_NULL; }},
      {"nothing to load", Code::kCorrupt, [](P& p) { p.text.p_memsz = p.text.p_filesz = 0; }},
      {"entry: in no", Code::kCorrupt, [](P& p) { p.head.e_entry = kTestKernel - 1; }},
      {"entry: in no", Code::kCorrupt, [](P& p) { p.head.e_entry = kTestKernel + 64; }},
      {"entry: in no", Code::kCorrupt, [](P& p) { p.head.e_entry = kHuge; }},
  };
  expect_refused(kTable);
}

TEST(KernelImageTest, AWrongSegmentIsRefused) {
  using P = VmlinuxParts;
  const WrongVmlinux kTable[] = {
      {"segment 0: past", Code::kCorrupt, [](P& p) { p.text.p_filesz = 65; }},
      {"segment 0: past", Code::kCorrupt, [](P& p) { p.text.p_filesz = kHuge; }},
      {"segment 0: past", Code::kCorrupt, [](P& p) { p.text.p_offset = sizeof(P) + 1; }},
      {"segment 0: past", Code::kCorrupt, [](P& p) { p.text.p_offset = kHuge; }},
      {"segment 0: larger", Code::kCorrupt, [](P& p) { p.text.p_memsz = 63; }},
      {"segment 0: below", Code::kCorrupt, [](P& p) { p.text.p_paddr = 0xF'FFFF; }},
      {"segment 0: its end", Code::kCorrupt, [](P& p) { p.text.p_memsz = kHuge; }},
      {"segment 0: its end", Code::kCorrupt, [](P& p) { p.text.p_paddr = kHuge; }},
      {"segment 1: past", Code::kCorrupt, [](P& p) { p.notes.p_filesz = kHuge; }},
  };
  expect_refused(kTable);
}

TEST(KernelImageTest, AWrongPvhNoteIsRefused) {
  using P = VmlinuxParts;
  const WrongVmlinux kTable[] = {
      {"past its segment", Code::kCorrupt, [](P& p) { p.notes.p_filesz -= 1; }},
      {"past its segment", Code::kCorrupt, [](P& p) { p.note_head.n_descsz = 0xFFFF'FFFF; }},
      {"past its segment", Code::kCorrupt, [](P& p) { p.note_head.n_namesz = 0xFFFF'FFFF; }},
      {"3 bytes", Code::kCorrupt, [](P& p) { p.note_head.n_descsz = 3; }},
      {"PVH note: its entry", Code::kCorrupt, [](P& p) { p.pvh_entry = kTestKernel - 1; }},
      {"PVH note: its entry", Code::kCorrupt, [](P& p) { p.pvh_entry = kHuge; }},
      {"no PVH note", Code::kUnsupported, [](P& p) { p.note_head.n_type = 17; }},
      {"no PVH note", Code::kUnsupported, [](P& p) { p.note_name[0] = 'x'; }},
      {"no PVH note", Code::kUnsupported, [](P& p) { p.notes.p_filesz = 0; }},
      {"no PVH note", Code::kUnsupported, [](P& p) { p.notes.p_type = PT_NULL; }},
  };
  expect_refused(kTable);
  VmlinuxParts without = good_vmlinux();
  without.notes.p_type = PT_NULL;
  EXPECT_TRUE(KernelImage::parse(bytes_of(without))) << "it has another way in";
}

TEST(KernelImageTest, ANarrowPvhNoteIsAnAddressToo) {
  VmlinuxParts parts = good_vmlinux();
  parts.note_head.n_descsz = 4;
  parts.notes.p_filesz -= 4;
  EXPECT_EQ(KernelImage::parse(bytes_of(parts), Entry::kPvh)->entry_address(), kTestKernel + 32);
}

TEST(KernelImageTest, AVersionIsOneWordThatCanBePrinted) {
  BzImageParts parts = good_bz_image();
  const std::pair<std::string, std::string> kVersions[] = {
      {"5.10.0 x", "5.10.0"},
      {std::string("6\x1B[31m\0", 6), "6"},
      {std::string(200, 'v'), std::string(64, 'v')},
      {"", ""}};
  for (const auto& [text, version] : kVersions) {
    parts.version = text;
    const Bytes file = bytes_of(parts);
    EXPECT_EQ(KernelImage::parse(file, Entry::kBzImage)->version(), version);
  }
  parts.header.kernel_version = 0;
  EXPECT_EQ(KernelImage::parse(bytes_of(parts))->version(), "9.8") << "its banner has one";
}

// Run under the address sanitizer: the copies end where the file does.
TEST(KernelImageTest, EveryTruncationIsRefused) {
  const Bytes vmlinux = bytes_of(good_vmlinux());
  for (const Bytes& whole : {vmlinux, bytes_of(good_bz_image())}) {
    for (std::size_t n = 0; n < whole.size(); ++n) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<long>(n));
      for (const Entry entry : kEntries) {
        const Result<KernelImage> image = KernelImage::parse(cut, entry);
        ASSERT_FALSE(image) << "accepted " << n << " bytes";
        ASSERT_TRUE(image.error().context.starts_with("kernel image: "));
      }
    }
  }
}

// Its path is in VOLT_TEST_KERNEL: a distribution's own.
TEST(KernelImageTest, AStockKernelHasEveryWayIn) {
  const char* const path = std::getenv("VOLT_TEST_KERNEL");
  if (path == nullptr) GTEST_SKIP() << "no VOLT_TEST_KERNEL";
  const Fd fd = open_at(AT_FDCWD, path, O_RDONLY).value();
  const Bytes file = read_whole(fd, 1 << 30, path).value();
  for (const Entry entry : kEntries) {
    const Result<KernelImage> image = KernelImage::parse(file, entry);
    ASSERT_TRUE(image) << image.error().context;
    EXPECT_FALSE(image->version().empty());
    EXPECT_GE(image->entry_address(), image->start());
  }
}

}  // namespace
}  // namespace volt::pc
