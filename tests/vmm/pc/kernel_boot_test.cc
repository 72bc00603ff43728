#include "vmm/pc/kernel_boot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/vmm/pc/kernel_builder.h"
#include "vmm/pc/layout.h"
#include "vmm/pc/memory_map.h"
#include "vmm/pc/pvh.h"

namespace volt::pc {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

vmm::GuestMemory memory_of(std::uint64_t mib) {
  return vmm::GuestMemory::anonymous(vmm::ram_layout(mib * kMiB).value()).value();
}

template <typename T>
T value_at(const vmm::GuestMemory& memory, std::uint64_t address) {
  T value;
  EXPECT_TRUE(memory.read(address, std::as_writable_bytes(std::span(&value, 1)))) << address;
  return value;
}

// Loads it into `memory`; the file of a moment is all that an image needs to be loaded.
Result<KernelBoot> load(const Bytes& file, Entry entry, const KernelInput& input,
                        const vmm::GuestMemory& memory) {
  const KernelImage image = VOLT_TRY(KernelImage::parse(file, entry));
  return load_kernel(image, input, memory);
}

void expect_invalid(const Result<KernelBoot>& boot, const char* what) {
  ASSERT_FALSE(boot) << "accepted: " << what;
  EXPECT_EQ(boot.error().code, Code::kInvalid) << boot.error().context;
  EXPECT_NE(boot.error().context.find(what), std::string::npos) << boot.error().context;
}

TEST(MemoryMapTest, LeavesOutTheHolesAndReservesAcpi) {
  const auto small = memory_map(memory_of(64)).value();
  const std::vector<MapEntry> low = {{0, kLowMemoryEnd, MemoryKind::kRam},
                                     {kAcpi, kAcpiBytes, MemoryKind::kReserved},
                                     {kHighMemory, 63 * kMiB, MemoryKind::kRam}};
  EXPECT_EQ(small, low);
  const auto large = memory_map(memory_of(5 << 10)).value();
  ASSERT_EQ(large.size(), 4u);
  EXPECT_EQ(large[2], (MapEntry{kHighMemory, 3071 * kMiB, MemoryKind::kRam}));
  EXPECT_EQ(large[3], (MapEntry{4096 * kMiB, 2048 * kMiB, MemoryKind::kRam}));
}

TEST(MemoryMapTest, ADevicesMemoryIsNotForUse) {
  const vmm::RegionLayout layout[] = {{.guest_base = 0, .bytes = 2 * kMiB},
                                      {.guest_base = kVirtioBase, .bytes = 4096}};
  const auto map = memory_map(vmm::GuestMemory::anonymous(layout).value()).value();
  EXPECT_EQ(map.back(), (MapEntry{kVirtioBase, 4096, MemoryKind::kReserved}));
}

TEST(MemoryMapTest, NothingAbove1MiBIsTooLittle) {
  const vmm::RegionLayout layout[] = {{.guest_base = 0, .bytes = kMiB}};
  EXPECT_FALSE(memory_map(vmm::GuestMemory::anonymous(layout).value()));
  EXPECT_FALSE(memory_map(vmm::GuestMemory({})));
}

TEST(KernelBootTest, TheKernelsBytesAreWhereItSays) {
  const vmm::GuestMemory memory = memory_of(64);
  ASSERT_TRUE(load(bytes_of(good_bz_image()), Entry::kLinux64, {}, memory));
  Bytes code(65);
  ASSERT_TRUE(memory.read(kTestKernel, code));
  EXPECT_EQ(std::ranges::count(code, std::byte{0xF4}), 64);
  const vmm::GuestMemory other = memory_of(64);
  const Bytes file = bytes_of(good_bz_image());
  ASSERT_TRUE(load(file, Entry::kBzImage, {}, other));
  Bytes whole(file.size() - 1024);
  ASSERT_TRUE(other.read(kTestKernel, whole));
  EXPECT_TRUE(std::ranges::equal(whole, std::span(file).subspan(1024)));
}

TEST(KernelBootTest, PagesOfZerosAreWhereTheyWere) {
  BzImageParts parts = good_bz_image();
  parts.payload = Bytes(40'000);
  for (const std::size_t at : {std::size_t{5000}, std::size_t{20'000}, std::size_t{39'999}}) {
    parts.payload[at] = std::byte{7};
    const Bytes file = bytes_of(parts);
    const vmm::GuestMemory memory = memory_of(64);
    ASSERT_TRUE(load(file, Entry::kBzImage, {}, memory));
    Bytes whole(file.size() - 1024);
    ASSERT_TRUE(memory.read(kTestKernel, whole));
    EXPECT_TRUE(std::ranges::equal(whole, std::span(file).subspan(1024)));
  }
}

TEST(KernelBootTest, Linux64BeginsInLongModeAtTheZeroPage) {
  const vmm::GuestMemory memory = memory_of(64);
  const auto boot = load(bytes_of(good_vmlinux()), Entry::kLinux64, {}, memory);
  ASSERT_TRUE(boot) << boot.error().context;
  EXPECT_EQ(boot->regs.rip, kTestKernel);
  EXPECT_EQ(boot->regs.rsi, kZeroPage);
  EXPECT_EQ(boot->regs.rflags, 2u);
  EXPECT_EQ(boot->sregs.cr0, 0x8000'0011u);
  EXPECT_EQ(boot->sregs.efer, 0x500u);
  EXPECT_EQ(boot->sregs.cr4, 0x20u);
  EXPECT_EQ(boot->sregs.cs.l, 1);
  // Descriptors as every Linux loader has them.
  EXPECT_EQ(value_at<std::uint64_t>(memory, kGdt + 0x10), 0x00AF'9B00'0000'FFFFu);
  EXPECT_EQ(value_at<std::uint64_t>(memory, kGdt + 0x18), 0x00CF'9300'0000'FFFFu);
  EXPECT_EQ(value_at<std::uint64_t>(memory, kGdt + 0x20), 0x0000'8B00'0000'0067u);
  EXPECT_EQ(boot->sregs.gdt.base, kGdt);
  EXPECT_EQ(boot->sregs.gdt.limit, 0x2F);
}

// Walks the tables that CR3 names.
std::uint64_t translate(const vmm::GuestMemory& memory, std::uint64_t cr3, std::uint64_t address) {
  std::uint64_t table = cr3;
  for (const int shift : {39, 30, 21}) {
    const auto entry = value_at<std::uint64_t>(memory, table + ((address >> shift) & 511) * 8);
    if ((entry & 3) != 3) return ~std::uint64_t{0};
    if ((entry & 0x80) != 0) return (entry & ~std::uint64_t{0x1F'FFFF}) | (address & 0x1F'FFFF);
    table = entry & ~std::uint64_t{0xFFF};
  }
  return ~std::uint64_t{0};
}

TEST(KernelBootTest, AllBelow4GiBIsMappedToItself) {
  const vmm::GuestMemory memory = memory_of(64);
  const auto boot = load(bytes_of(good_vmlinux()), Entry::kLinux64, {}, memory);
  ASSERT_TRUE(boot);
  for (const std::uint64_t address : {std::uint64_t{0}, kZeroPage, kTestKernel + 5, 0x3FFF'FFFFul,
                                      0x4000'0000ul, kVirtioBase, 0xFFFF'FFFFul}) {
    EXPECT_EQ(translate(memory, boot->sregs.cr3, address), address);
  }
  EXPECT_EQ(translate(memory, boot->sregs.cr3, 0x1'0000'0000), ~std::uint64_t{0});
  EXPECT_EQ(value_at<std::uint64_t>(memory, kPageTablesEnd), 0u);
}

TEST(KernelBootTest, TheZeroPageHasTheKernelsHeaderAndWhatALoaderAdds) {
  const vmm::GuestMemory memory = memory_of(64);
  BzImageParts parts = good_bz_image();
  parts.header.hardware_subarch_data = 0x1234'5678;
  parts.header.loadflags = LOADED_HIGH | KASLR_FLAG;
  const Bytes initrd(5000, std::byte{0x11});
  ASSERT_TRUE(load(bytes_of(parts), Entry::kLinux64,
                   {.initrd = initrd, .command_line = "console=ttyS0"}, memory));
  const auto page = value_at<boot_params>(memory, kZeroPage);
  EXPECT_EQ(page.hdr.header, 0x5372'6448u);
  EXPECT_EQ(page.hdr.hardware_subarch_data, 0x1234'5678u) << "the header is the file's";
  EXPECT_EQ(page.hdr.type_of_loader, 0xFF);
  EXPECT_EQ(page.hdr.loadflags, LOADED_HIGH);
  EXPECT_EQ(page.hdr.cmd_line_ptr, kCommandLine);
  EXPECT_EQ(page.hdr.ramdisk_size, 5000u);
  EXPECT_EQ(page.hdr.ramdisk_image, 64 * kMiB - 8192);
  EXPECT_EQ(page.acpi_rsdp_addr, kAcpi);
  EXPECT_EQ(page.sentinel, 0);
  ASSERT_EQ(page.e820_entries, 3);
  const boot_e820_entry last = page.e820_table[2];
  EXPECT_EQ(last.addr, kHighMemory);
  EXPECT_EQ(last.size, 63 * kMiB);
  EXPECT_EQ(last.type, 1u);
  Bytes copy(5001);
  ASSERT_TRUE(memory.read(page.hdr.ramdisk_image, copy));
  EXPECT_EQ(std::ranges::count(copy, std::byte{0x11}), 5000);
  Bytes line(14);
  ASSERT_TRUE(memory.read(kCommandLine, line));
  EXPECT_STREQ(reinterpret_cast<const char*>(line.data()), "console=ttyS0");
}

TEST(KernelBootTest, AVmlinuxGetsAHeaderThatItsKernelBelieves) {
  const vmm::GuestMemory memory = memory_of(64);
  ASSERT_TRUE(load(bytes_of(good_vmlinux()), Entry::kLinux64, {}, memory));
  const auto page = value_at<boot_params>(memory, kZeroPage);
  EXPECT_EQ(page.hdr.boot_flag, 0xAA55);
  EXPECT_EQ(page.hdr.header, 0x5372'6448u);
  EXPECT_EQ(page.hdr.version, 0x20F);
  EXPECT_EQ(page.hdr.type_of_loader, 0xFF);
  EXPECT_EQ(page.hdr.ramdisk_image, 0u);
  EXPECT_EQ(page.hdr.ramdisk_size, 0u);
}

TEST(KernelBootTest, PvhBeginsIn32BitModeAtTheStartInfo) {
  const vmm::GuestMemory memory = memory_of(5 << 10);
  const Bytes initrd(5000, std::byte{0x11});
  const auto boot = load(bytes_of(good_vmlinux()), Entry::kPvh,
                         {.initrd = initrd, .command_line = "quiet"}, memory);
  ASSERT_TRUE(boot) << boot.error().context;
  EXPECT_EQ(boot->regs.rip, kTestKernel + 32);
  EXPECT_EQ(boot->regs.rbx, kStartInfo);
  EXPECT_EQ(boot->sregs.cr0, 0x11u);
  EXPECT_EQ(boot->sregs.efer, 0u);
  EXPECT_EQ(boot->sregs.cs.l, 0);
  EXPECT_EQ(boot->sregs.cs.db, 1);
  EXPECT_EQ(value_at<std::uint64_t>(memory, kGdt + 0x10), 0x00CF'9B00'0000'FFFFu);
  const auto info = value_at<StartInfo>(memory, kStartInfo);
  EXPECT_EQ(info.magic, 0x336E'C578u);
  EXPECT_EQ(info.version, 1u);
  EXPECT_EQ(info.command_line, kCommandLine);
  EXPECT_EQ(info.rsdp, kAcpi);
  ASSERT_EQ(info.module_count, 1u);
  const auto module = value_at<StartModule>(memory, info.modules);
  EXPECT_EQ(module.bytes, 5000u);
  EXPECT_EQ(module.address, 2048 * kMiB - 8192) << "no higher than a kernel reaches";
  ASSERT_EQ(info.map_entries, 4u);
  const auto last = value_at<StartMapEntry>(memory, info.map + 3 * sizeof(StartMapEntry));
  EXPECT_EQ(last.address, 4096 * kMiB);
  EXPECT_EQ(last.kind, 1u);
}

TEST(KernelBootTest, PvhWithoutARamDiskHasNoModule) {
  const vmm::GuestMemory memory = memory_of(64);
  ASSERT_TRUE(load(bytes_of(good_vmlinux()), Entry::kPvh, {}, memory));
  const auto info = value_at<StartInfo>(memory, kStartInfo);
  EXPECT_EQ(info.module_count, 0u);
  EXPECT_EQ(info.modules, 0u);
}

TEST(KernelBootTest, AKernelThatDoesNotFitIsInvalid) {
  const Bytes file = bytes_of(good_bz_image());
  expect_invalid(load(file, Entry::kLinux64, {}, memory_of(16)), "--memory");
  expect_invalid(load(file, Entry::kBzImage, {}, memory_of(16)), "--memory");
  EXPECT_TRUE(load(file, Entry::kBzImage, {}, memory_of(18)));
  VmlinuxParts parts = good_vmlinux();
  parts.text.p_paddr = parts.head.e_entry = parts.pvh_entry = 0xC000'0000;
  expect_invalid(load(bytes_of(parts), Entry::kLinux64, {}, memory_of(5 << 10)), "0xc0003000");
}

TEST(KernelBootTest, ARamDiskFitsExactlyOrNotAtAll) {
  const Bytes file = bytes_of(good_vmlinux());
  // 2 MiB behind the kernel's start, less its three pages.
  const std::size_t room = 2 * kMiB - kTestKernelMemory;
  const vmm::GuestMemory memory = memory_of(18);
  const Bytes fits(room);
  ASSERT_TRUE(load(file, Entry::kLinux64, {.initrd = fits, .command_line = ""}, memory));
  const auto page = value_at<boot_params>(memory, kZeroPage);
  EXPECT_EQ(page.hdr.ramdisk_image, kTestKernel + kTestKernelMemory);
  for (const std::size_t bytes : {room + 1, std::size_t{64 * kMiB}}) {
    const Bytes large(bytes);
    expect_invalid(
        load(file, Entry::kLinux64, {.initrd = large, .command_line = ""}, memory_of(18)),
        "--memory");
  }
}

TEST(KernelBootTest, ARamDiskIsNoHigherThanTheKernelReaches) {
  const Bytes initrd(3 * kMiB);
  const Bytes near =
      bytes_of(good_bz_image(), [](setup_header& h) { h.initrd_addr_max = 0x180'0000 - 1; });
  const vmm::GuestMemory memory = memory_of(64);
  const KernelInput input = {.initrd = initrd, .command_line = ""};
  ASSERT_TRUE(load(near, Entry::kLinux64, input, memory));
  EXPECT_EQ(value_at<boot_params>(memory, kZeroPage).hdr.ramdisk_image, 0x150'0000u);
  const Bytes nearer =
      bytes_of(good_bz_image(), [](setup_header& h) { h.initrd_addr_max = 0x120'0000; });
  expect_invalid(load(nearer, Entry::kLinux64, input, memory), "make it smaller");
  const Bytes nowhere = bytes_of(good_bz_image(), [](setup_header& h) { h.initrd_addr_max = 0; });
  expect_invalid(load(nowhere, Entry::kLinux64, input, memory), "make it smaller");
}

TEST(KernelBootTest, ACommandLineHasALimit) {
  const Bytes file = bytes_of(good_bz_image());  // whose limit is 100
  const auto with = [&file](std::string line) {
    return load(file, Entry::kLinux64, {.initrd = {}, .command_line = std::move(line)},
                memory_of(64));
  };
  EXPECT_TRUE(with(std::string(100, 'x')));
  expect_invalid(with(std::string(101, 'x')), "takes 100");
  expect_invalid(with(std::string("a\0b", 3)), "zero byte");
  const Bytes greedy =
      bytes_of(good_bz_image(), [](setup_header& h) { h.cmdline_size = 0xFFFF'FFFF; });
  expect_invalid(load(greedy, Entry::kLinux64,
                      {.initrd = {}, .command_line = std::string(0x1'0000, 'x')}, memory_of(64)),
                 "takes 65535");
}

}  // namespace
}  // namespace volt::pc
