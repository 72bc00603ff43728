#include "uffd/shared_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

using SharedImageTest = UffdTest;

SharedImage three_units() {
  return SharedImage::create(3 * kUnit, kUnit).value();
}

Mapping view(const SharedImage& image) {
  return Mapping::create(3 * kUnit, PROT_READ, MAP_PRIVATE, image.fd(), 0, "view").value();
}

TEST_F(SharedImageTest, StartsWithNothingInIt) {
  const SharedImage image = three_units();
  ASSERT_EQ(image.units(), 3u);
  std::vector<unsigned char> there(3 * kUnit / kPage, 1);
  const Mapping map = view(image);
  ASSERT_EQ(::mincore(map.data(), map.size(), there.data()), 0);
  EXPECT_TRUE(std::ranges::none_of(there, [](unsigned char page) { return page & 1; }));
}

TEST_F(SharedImageTest, AFilledUnitIsPresentAndShownByEveryMapping) {
  SharedImage image = three_units();
  ASSERT_TRUE(image.fill(1, unit_bytes(1)));
  const Mapping one = view(image), two = view(image);
  EXPECT_TRUE(std::ranges::equal(one.bytes().subspan(kUnit, kUnit), unit_bytes(1)));
  EXPECT_TRUE(std::ranges::equal(two.bytes().subspan(kUnit, kUnit), unit_bytes(1)));
}

TEST_F(SharedImageTest, FillingAUnitTwiceIsCorruptAndKeepsTheFirst) {
  SharedImage image = three_units();
  ASSERT_TRUE(image.fill(0, unit_bytes(0)));
  const Result<> again = image.fill(0, unit_bytes(2));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kCorrupt);
  EXPECT_NE(again.error().context.find("image unit 0"), std::string::npos);
  EXPECT_TRUE(std::ranges::equal(view(image).bytes().first(kUnit), unit_bytes(0)));
}

// One read through a mapping that no userfaultfd watches puts a zero page into the image.
TEST_F(SharedImageTest, APagePlantedByAStrayReadIsCorruptNotPresent) {
  SharedImage image = three_units();
  const Mapping stray = view(image);
  EXPECT_EQ(peek(stray.data() + kUnit + 3 * kPage), 0);
  const Result<> filled = image.fill(1, unit_bytes(1));
  ASSERT_FALSE(filled);
  EXPECT_EQ(filled.error().code, Code::kCorrupt);
}

TEST_F(SharedImageTest, OnlyAWholeUnitFillsAUnit) {
  SharedImage image = three_units();
  for (const std::size_t bytes : {std::size_t{0}, kPage, kUnit - kPage, kUnit + kPage}) {
    const Result<> filled = image.fill(1, std::vector<std::byte>(bytes, std::byte{1}));
    ASSERT_FALSE(filled) << bytes;
    EXPECT_EQ(filled.error().code, Code::kCorrupt);
  }
  EXPECT_TRUE(image.fill(1, unit_bytes(1)));
  EXPECT_TRUE(image.fill(2, unit_bytes(2)));
}

TEST_F(SharedImageTest, ASourceThatCannotBeReadIsReportedNotFilledWithZeros) {
  SharedImage image = three_units();
  Mapping source =
      Mapping::create(kUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "source")
          .value();
  ASSERT_EQ(::mprotect(source.data() + 5 * kPage, kPage, PROT_NONE), 0);
  const Result<> filled = image.fill(1, source.bytes());
  ASSERT_FALSE(filled);
  EXPECT_EQ(filled.error().sys_errno, EFAULT) << filled.error().context;
}

TEST_F(SharedImageTest, NobodyElseCanWriteGrowOrCutIt) {
  SharedImage image = three_units();
  const int fd = image.fd();
  const char byte = 1;
  EXPECT_EQ(::pwrite(fd, &byte, 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd, 4 * kUnit), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd, kUnit), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::mmap(nullptr, kUnit, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1) << "nor change the seals";
  EXPECT_EQ(errno, EPERM);
  EXPECT_TRUE(image.fill(0, unit_bytes(0))) << "its pager still can";
}

TEST_F(SharedImageTest, ASharedMappingForReadingCannotBeMadeWritable) {
  const SharedImage image = three_units();
  void* const map = ::mmap(nullptr, kUnit, PROT_READ, MAP_SHARED, image.fd(), 0);
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(::mprotect(map, kUnit, PROT_READ | PROT_WRITE), -1);
  ::munmap(map, kUnit);
}

TEST_F(SharedImageTest, AnImageOfNothingIsAnError) {
  EXPECT_FALSE(SharedImage::create(0, kUnit));
}

}  // namespace
}  // namespace volt::uffd
