// VMs of another user than the pager's: kept out by the socket's mode, and where they are let in,
// kept out of the trust domain of those that share the image.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <thread>

#include "tests/uffd/pager_fixture.h"

namespace volt::uffd {
namespace {

using pager::Mode;

constexpr unsigned kNobody = 65534;

class OtherUserTest : public UffdTest {
 protected:
  void SetUp() override {
    UffdTest::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
    ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
    pager_ = std::make_unique<TestPager>(path(), std::make_unique<DirectSource>(good_units()));
  }
  std::string path() const { return dir_.socket(); }
  TestPager& pager() { return *pager_; }

  // On a thread that is nobody's; the others stay who they are, as the bare system call leaves
  // them.
  static void as_nobody(const std::function<void()>& body) {
    std::thread([&] {
      ASSERT_EQ(::syscall(SYS_setresgid, kNobody, kNobody, kNobody), 0);
      ASSERT_EQ(::syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);
      body();
    }).join();
  }

 private:
  SocketDir dir_;
  std::unique_ptr<TestPager> pager_;
};

TEST_F(OtherUserTest, IsKeptOutByTheSocketsMode) {
  as_nobody([&] {
    const auto refused = PagerClient::connect({.path = path(), .image = kImageName});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().sys_errno, EACCES) << refused.error().context;
    EXPECT_NE(refused.error().context.find(path()), std::string::npos) << refused.error().context;
  });
}

TEST_F(OtherUserTest, LetInMayHaveTheImageOnlyIsolated) {
  ASSERT_EQ(::chmod(path().c_str(), 0666), 0);
  Userfaultfd uffd = MemoryVm::must(Userfaultfd::open());  // which nobody may not open
  as_nobody([&] {
    const auto refused = PagerClient::connect({.path = path(), .image = kImageName});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kInvalid);
    EXPECT_NE(refused.error().context.find("--isolate-image"), std::string::npos)
        << refused.error().context;
    const MemoryVm vm({.path = path(), .image = kImageName, .mode = Mode::kIsolated}, std::nullopt,
                      std::move(uffd));
    for (std::uint64_t unit = 0; unit < kUnits; ++unit) EXPECT_TRUE(vm.sees(unit));
  });
  EXPECT_NE(pager().log().find("another user"), std::string::npos) << pager().log();
}

}  // namespace
}  // namespace volt::uffd
