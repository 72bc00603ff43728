// Memory that vanishes under the host: a file cut short behind a mapping.
#include "vmm/os/fault_guard.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "vmm/os/fd.h"
#include "vmm/os/mapping.h"

namespace volt {
namespace {

constexpr std::size_t kPage = 4096;

struct CutFile {
  Fd fd{::memfd_create("cut", MFD_CLOEXEC)};
  Mapping map = make();

  Mapping make() {
    EXPECT_EQ(::ftruncate(fd.get(), 2 * kPage), 0);
    Mapping mapping =
        Mapping::create(2 * kPage, PROT_READ, MAP_PRIVATE, fd.get(), 0, "cut file").value();
    EXPECT_EQ(::ftruncate(fd.get(), kPage), 0);
    return mapping;
  }
};

TEST(FaultGuardTest, AVanishedPageIsAnErrorNotACrash) {
  const CutFile cut;
  std::vector<std::byte> copy(2 * kPage);
  const Result<> got = guarded_copy(copy, cut.map.bytes());
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::kPageLost);
  EXPECT_TRUE(guarded_copy(std::span(copy).first(kPage), cut.map.bytes().first(kPage)));
}

TEST(FaultGuardTest, EveryFaultIsCaughtNotOnlyTheFirst) {
  const CutFile cut;
  std::byte one[1];
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(guarded_copy(one, cut.map.bytes().subspan(kPage, 1)));
}

// Of the signal, or of a sanitizer that handles it.
bool died(int status) {
  return WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0;
}

TEST(FaultGuardDeathTest, AnUnguardedFaultStillKills) {
  const CutFile cut;
  std::byte one[1];
  EXPECT_FALSE(guarded_copy(one, cut.map.bytes().subspan(kPage, 1)));
  EXPECT_EXIT({ [[maybe_unused]] const volatile std::byte b = cut.map.data()[kPage]; }, died, "");
}

}  // namespace
}  // namespace volt
