#include "vmm/os/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace volt {
namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

TEST(FdTest, ClosesOnceAtTheEndOfItsLife) {
  const int raw = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    Fd fd{raw};
    const Fd moved{std::move(fd)};
    EXPECT_FALSE(fd.valid());
    EXPECT_TRUE(is_open(raw));
  }
  EXPECT_FALSE(is_open(raw));
}

TEST(FdTest, AssignmentClosesWhatItReplaces) {
  const int first = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  Fd fd{first};
  fd = Fd{::open("/dev/zero", O_RDONLY | O_CLOEXEC)};
  EXPECT_TRUE(fd.valid());
  EXPECT_TRUE(!is_open(first) || fd.get() == first);
}

}  // namespace
}  // namespace volt
