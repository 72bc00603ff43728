#include "vmm/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "vmm/guest_abi.h"
#include "vmm/os/fd.h"

namespace volt::vmm {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kPage = guest_abi::kPageBytes;

GuestMemory small_with_hole() {
  // As ram_layout() splits, in small: two regions with nothing between.
  const RegionLayout layout[] = {{.guest_base = 0, .bytes = 2 * kMiB},
                                 {.guest_base = 8 * kMiB, .bytes = 2 * kMiB}};
  return GuestMemory::anonymous(layout).value();
}

Code code_of(const auto& result) {
  EXPECT_FALSE(result);
  return result ? Code{} : result.error().code;
}

TEST(RamLayoutTest, WhatFitsBelowTheHoleIsOneRegion) {
  EXPECT_EQ(ram_layout(2 * kMiB).value(), (std::vector<RegionLayout>{{0, 2 * kMiB}}));
  EXPECT_EQ(ram_layout(3 * kGiB).value(), (std::vector<RegionLayout>{{0, 3 * kGiB}}));
}

TEST(RamLayoutTest, TheRestGoesOnAtFourGiB) {
  EXPECT_EQ(ram_layout(3 * kGiB + 2 * kMiB).value(),
            (std::vector<RegionLayout>{{0, 3 * kGiB}, {4 * kGiB, 2 * kMiB}}));
  EXPECT_EQ(ram_layout(16 * kGiB).value(),
            (std::vector<RegionLayout>{{0, 3 * kGiB}, {4 * kGiB, 13 * kGiB}}));
}

TEST(RamLayoutTest, SizesNoGuestCanUseAreRefused) {
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1}, kMiB, 2 * kMiB - 1, 2 * kMiB + 4096, 3 * kMiB,
        16 * kGiB + 2 * kMiB, 1024 * kGiB, std::uint64_t{1} << 60, ~std::uint64_t{0},
        ~std::uint64_t{0} - 2 * kMiB + 1}) {
    const auto layout = ram_layout(bytes);
    ASSERT_EQ(code_of(layout), Code::kInvalid) << bytes;
    EXPECT_NE(layout.error().context.find(std::to_string(bytes)), std::string::npos);
  }
}

// Of this process's address space.
std::uint64_t mapped_bytes() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * kPage;
}

TEST(MappingTest, AnAlignedOneTakesNoMoreThanItsBytes) {
  constexpr std::size_t kAlignment = 64 * kMiB;
  for (const std::size_t bytes : {kPage, kAlignment - kPage, kAlignment, kAlignment + kPage}) {
    const std::uint64_t before = mapped_bytes();
    // Where one is at such a multiple already, the next below it is not, unless bytes are one.
    std::vector<Mapping> several;
    for (int i = 0; i < 3; ++i) {
      several.push_back(Mapping::aligned(bytes, kAlignment, PROT_READ | PROT_WRITE, 0, "").value());
      const std::span<std::byte> all = several.back().bytes();
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(all.data()) % kAlignment, 0U);
      ASSERT_EQ(all.size(), bytes);
      all.front() = all.back() = std::byte{1};
    }
    const std::uint64_t now = mapped_bytes();
    EXPECT_GE(now - before, 3 * bytes);
    EXPECT_LT(now - before, 3 * bytes + 16 * kMiB);  // the heap may have grown
    several.clear();
    EXPECT_LT(mapped_bytes(), before + 16 * kMiB) << bytes;
  }
}

TEST(GuestMemoryTest, RegionsBeginAtTwoMiBHereAsInTheGuest) {
  const GuestMemory memory = small_with_hole();
  for (const GuestMemory::Region& region : memory.regions()) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region.host.data()) % (2 * kMiB), 0U);
  }
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<std::size_t>(
      std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
}

// As a clone's balloon takes them: every second page of what shows a file.
TEST(GuestMemoryTest, HolesInWhatShowsAFileDoNotUseUpTheMappingsOfAProcess) {
  constexpr std::uint64_t kBytes = 256 * kMiB;
  const Fd file(::memfd_create("image", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kBytes), 0);
  Mapping image =
      Mapping::create(kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0, "").value();
  for (std::uint64_t at = 0; at < kBytes; at += kPage) image.data()[at] = std::byte{7};
  Mapping host = GuestMemory::reserve(kBytes).value();
  ASSERT_NE(
      ::mmap(host.data(), kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file.get(), 0),
      MAP_FAILED);
  std::vector<GuestMemory::Region> regions;
  regions.push_back({0, std::move(host), {{0, kBytes}}});
  const GuestMemory memory(std::move(regions));
  const std::size_t before = mappings();
  std::uint64_t given_back = 0;
  for (std::uint64_t at = 0; at < kBytes; at += 2 * kPage) {
    if (memory.discard(at, kPage).value()) ++given_back;
  }
  EXPECT_EQ(given_back, 16'384u);
  EXPECT_LE(mappings() - before, 32'800u);
  std::array<std::byte, kPage> page;
  for (std::uint64_t at = 0; at < kBytes; at += kPage) {
    ASSERT_TRUE(memory.read(at, page));
    ASSERT_EQ(page[0], at / kPage % 2 == 0 ? std::byte{0} : std::byte{7}) << at / kPage;
  }
  // What is beside a hole makes it larger, and what is in one changes nothing.
  EXPECT_TRUE(memory.discard(kPage, kPage).value());
  EXPECT_TRUE(memory.discard(0, 3 * kPage).value());
  EXPECT_TRUE(memory.read(kPage, page));
  EXPECT_EQ(page[0], std::byte{0});
}

TEST(GuestMemoryTest, EveryByteOfARegionCanBeReachedAndNoneBeyond) {
  const GuestMemory memory = small_with_hole();
  EXPECT_EQ(memory.total_bytes(), 4 * kMiB);
  EXPECT_EQ(memory.at(0, 2 * kMiB).value().data(), memory.regions()[0].host.data());
  EXPECT_EQ(memory.at(2 * kMiB - 1, 1).value().data(),
            memory.regions()[0].host.data() + 2 * kMiB - 1);
  EXPECT_EQ(memory.at(8 * kMiB, 1).value().data(), memory.regions()[1].host.data());
  EXPECT_EQ(memory.at(10 * kMiB - 1, 1).value().size(), 1u);
}

TEST(GuestMemoryTest, WhatIsNotWhollyInsideOneRegionIsInvalid) {
  const GuestMemory memory = small_with_hole();
  const struct {
    std::uint64_t address, bytes;
  } kOutside[] = {
      {0, 2 * kMiB + 1},
      {2 * kMiB - 1, 2},
      {2 * kMiB, 1},
      {2 * kMiB - 8, 6 * kMiB + 16},  // from one region into the other
      {4 * kMiB, 1},
      {8 * kMiB - 1, 1},
      {8 * kMiB - 1, 2},
      {10 * kMiB, 1},
      {10 * kMiB - 1, 2},
      {~std::uint64_t{0}, 1},
      {~std::uint64_t{0}, ~std::uint64_t{0}},
      {1, ~std::uint64_t{0}},
      {8 * kMiB + 1, ~std::uint64_t{0} - 8 * kMiB},
      {std::uint64_t{1} << 63, std::uint64_t{1} << 63},
  };
  for (const auto& range : kOutside) {
    EXPECT_EQ(code_of(memory.at(range.address, range.bytes)), Code::kInvalid)
        << range.address << " +" << range.bytes;
  }
}

TEST(GuestMemoryTest, ReadsAndWritesOutsideChangeNothing) {
  const GuestMemory memory = small_with_hole();
  std::array<std::byte, 16> bytes;
  bytes.fill(std::byte{0xAB});
  EXPECT_EQ(code_of(memory.write(2 * kMiB - 8, bytes)), Code::kInvalid);
  EXPECT_EQ(code_of(memory.write(~std::uint64_t{0} - 7, bytes)), Code::kInvalid);
  std::array<std::byte, 8> last = {};
  ASSERT_TRUE(memory.read(2 * kMiB - 8, last));
  EXPECT_EQ(last, (std::array<std::byte, 8>{}));
  EXPECT_EQ(code_of(memory.read(2 * kMiB - 8, bytes)), Code::kInvalid);
  EXPECT_EQ(bytes.front(), std::byte{0xAB});
}

TEST(GuestMemoryTest, WhatIsWrittenIsRead) {
  const GuestMemory memory = small_with_hole();
  for (const std::uint64_t address :
       {std::uint64_t{0}, kPage - 3, 2 * kMiB - 8, 8 * kMiB, 10 * kMiB - 8}) {
    const std::array<std::uint64_t, 1> put = {guest_abi::seeded_word(1, address)};
    std::array<std::uint64_t, 1> got = {};
    ASSERT_TRUE(memory.write(address, std::as_bytes(std::span(put))));
    ASSERT_TRUE(memory.read(address, std::as_writable_bytes(std::span(got))));
    EXPECT_EQ(got, put);
  }
}

// A region whose second page lies past the end of its file.
GuestMemory half_backed() {
  const Fd file{::memfd_create("cut", MFD_CLOEXEC)};
  EXPECT_EQ(::ftruncate(file.get(), kPage), 0);
  std::vector<GuestMemory::Region> regions;
  regions.push_back(
      {0,
       Mapping::create(2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0, "cut file")
           .value(),
       {}});
  return GuestMemory(std::move(regions));
}

TEST(GuestMemoryTest, APageThatCannotBeHadIsLostNotACrash) {
  const GuestMemory memory = half_backed();
  std::array<std::byte, 8> bytes = {};
  EXPECT_TRUE(memory.read(0, bytes));
  EXPECT_EQ(code_of(memory.read(kPage, bytes)), Code::kPageLost);
  EXPECT_EQ(code_of(memory.write(kPage, bytes)), Code::kPageLost);
  EXPECT_EQ(code_of(memory.read(kPage - 4, bytes)), Code::kPageLost);
}

TEST(GuestMemoryTest, AForkedChildHasNoneOfIt) {
  const GuestMemory memory = small_with_hole();
  const std::array<std::uint64_t, 1> mark = {guest_abi::seeded_word(7, 7)};
  for (const std::uint64_t address : {std::uint64_t{0}, 8 * kMiB}) {
    ASSERT_TRUE(memory.write(address, std::as_bytes(std::span(mark))));
  }
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int found = 0;
    for (const GuestMemory::Region& region : memory.regions()) {
      // mincore() says ENOMEM where nothing is mapped; a sanitizer may have put something there.
      unsigned char resident;
      if (::mincore(region.host.data(), 1, &resident) != 0) continue;
      if (std::memcmp(region.host.data(), mark.data(), sizeof mark) == 0) ++found;
    }
    ::_exit(found);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// The VmFlags of the mapping that holds `address`.
std::string flags_of(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t start = 0, end = 0;
    char dash = 0;
    std::istringstream head(line);
    if (line.find('-') < line.find(' ') && head >> std::hex >> start >> dash >> end) {
      inside = start <= wanted && wanted < end;
    }
    if (inside && line.starts_with("VmFlags:")) return line;
  }
  return {};
}

TEST(GuestMemoryTest, ItIsNeitherForkedNorMadeOfHugePages) {
  const GuestMemory memory = small_with_hole();
  for (const GuestMemory::Region& region : memory.regions()) {
    const std::string flags = flags_of(region.host.data());
    EXPECT_NE(flags.find(" dc"), std::string::npos) << flags;
    if (::access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) continue;
    EXPECT_NE(flags.find(" nh"), std::string::npos) << flags;
  }
}

TEST(GuestMemoryTest, ReservingMoreThanTheMachineHasCostsNothing) {
  const Result<Mapping> reserved = GuestMemory::reserve(16 * kGiB);
  ASSERT_TRUE(reserved) << reserved.error().context;
  const Result<Mapping> absurd = GuestMemory::reserve(std::uint64_t{1} << 60);
  ASSERT_FALSE(absurd);
  EXPECT_EQ(absurd.error().code, Code::kSystem);
}

}  // namespace
}  // namespace volt::vmm
