#include "tools/page_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "vmm/os/file.h"
#include "vmm/os/mapping.h"

namespace volt::tools {
namespace {

constexpr std::size_t kBytes = 10 * 4096 + 7;

class PageCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = Fd(::mkstemp(path_.data()));
    ASSERT_TRUE(fd_.valid());
    ASSERT_TRUE(write_all(fd_, std::vector(kBytes, std::byte{7}), 0, path_));
  }
  void TearDown() override { ::unlink(path_.c_str()); }

  std::string path_ = "/var/tmp/volt-test-XXXXXX";
  Fd fd_;
};

TEST_F(PageCacheTest, SaysHowMuchThereWasAndStayed) {
  const auto dropped = drop_from_page_cache(path_);
  ASSERT_TRUE(dropped) << dropped.error().context;
  EXPECT_EQ(dropped->bytes, kBytes);
  EXPECT_LE(dropped->stayed_bytes, kBytes);
}

TEST_F(PageCacheTest, WhatIsMappedStays) {
  const auto mapping =
      Mapping::create(kBytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_.get(), 0, path_.c_str());
  ASSERT_TRUE(mapping);
  const auto dropped = drop_from_page_cache(path_);
  ASSERT_TRUE(dropped) << dropped.error().context;
  EXPECT_EQ(dropped->stayed_bytes, kBytes);
}

TEST_F(PageCacheTest, AFileThatIsNotThere) {
  const auto dropped = drop_from_page_cache(path_ + "-not");
  ASSERT_FALSE(dropped);
  EXPECT_EQ(dropped.error().code, Code::kNotFound);
}

}  // namespace
}  // namespace volt::tools
