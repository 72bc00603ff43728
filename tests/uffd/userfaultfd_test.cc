// What the kernel says about each call, told apart.
#include "uffd/userfaultfd.h"

#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "tests/uffd/uffd_fixture.h"

namespace volt::uffd {
namespace {

using Did = Userfaultfd::Did;
using Wake = Userfaultfd::Wake;

using UserfaultfdTest = UffdTest;

Mapping anonymous(std::size_t pages) {
  return Mapping::create(pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                         "test")
      .value();
}

std::vector<std::byte> pages_of(std::size_t pages, int value) {
  return std::vector<std::byte>(pages * kPage, std::byte{static_cast<unsigned char>(value)});
}

void expect_bad_descriptor(const auto& result, const char* call) {
  ASSERT_FALSE(result) << call;
  EXPECT_EQ(result.error().code, Code::kSystem) << call;
  EXPECT_EQ(result.error().sys_errno, EBADF) << call;
  EXPECT_EQ(result.error().context, std::string(call) + ": Bad file descriptor");
}

TEST(UserfaultfdWrapperTest, CallsOnABadDescriptorAreErrorsThatNameTheCall) {
  Userfaultfd bad(Fd{-1});
  Mapping map = anonymous(1);
  const auto bytes = pages_of(1, 1);
  uffd_msg messages[1];
  expect_bad_descriptor(bad.register_missing(map.bytes()), "UFFDIO_REGISTER");
  expect_bad_descriptor(bad.copy(map.data(), bytes, Wake::kYes), "UFFDIO_COPY");
  expect_bad_descriptor(bad.register_missing_and_minor(map.bytes()), "UFFDIO_REGISTER");
  expect_bad_descriptor(bad.resume(map.bytes(), Wake::kYes), "UFFDIO_CONTINUE");
  expect_bad_descriptor(bad.zero(map.bytes(), Wake::kYes), "UFFDIO_ZEROPAGE");
  expect_bad_descriptor(bad.poison(map.bytes(), Wake::kYes), "UFFDIO_POISON");
  expect_bad_descriptor(bad.wake(map.bytes()), "UFFDIO_WAKE");
  expect_bad_descriptor(bad.read_messages(messages), "read userfaultfd");
}

TEST_F(UserfaultfdTest, CopiedPagesAreThereWhole) {
  Mapping map = anonymous(4);
  Userfaultfd uffd = Userfaultfd::open().value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  const auto bytes = pages_of(4, 7);
  const auto outcome = uffd.copy(map.data(), bytes, Wake::kNo).value();
  EXPECT_EQ(outcome.what, Did::kAll);
  EXPECT_EQ(outcome.bytes, 4 * kPage);
  EXPECT_TRUE(std::ranges::equal(map.bytes(), bytes));
}

TEST_F(UserfaultfdTest, APageThatIsThereIsToldApartAndNotOverwritten) {
  Mapping map = anonymous(3);
  Userfaultfd uffd = Userfaultfd::open().value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  ASSERT_EQ(uffd.copy(map.data() + kPage, pages_of(1, 1), Wake::kNo).value().what, Did::kAll);
  const auto bytes = pages_of(3, 2);
  const auto some = uffd.copy(map.data(), bytes, Wake::kNo).value();
  EXPECT_EQ(some.what, Did::kSome);
  EXPECT_EQ(some.bytes, kPage);
  const auto none =
      uffd.copy(map.data() + kPage, std::span(bytes).subspan(kPage), Wake::kNo).value();
  EXPECT_EQ(none.what, Did::kAlreadyThere);
  EXPECT_EQ(none.bytes, 0u);
  EXPECT_EQ(map.data()[kPage], std::byte{1});
}

TEST_F(UserfaultfdTest, ASourceThatEndsHalfWayIsSomeThenAnError) {
  Mapping map = anonymous(2), source = anonymous(2);
  std::fill_n(source.data(), kPage, std::byte{5});
  ASSERT_EQ(::mprotect(source.data() + kPage, kPage, PROT_NONE), 0);
  Userfaultfd uffd = Userfaultfd::open().value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  const auto some = uffd.copy(map.data(), source.bytes(), Wake::kNo);
  ASSERT_TRUE(some) << some.error().context;
  EXPECT_EQ(some->what, Did::kSome);
  EXPECT_EQ(some->bytes, kPage);
  EXPECT_EQ(map.data()[0], std::byte{5});
  const auto none = uffd.copy(map.data() + kPage, source.bytes().subspan(kPage), Wake::kNo);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kSystem);
  EXPECT_EQ(none.error().sys_errno, EFAULT);
}

// The child shares our descriptors but not our memory, and says by its exit code which one it made.
TEST_F(UserfaultfdTest, MemoryOfAProcessThatIsGoneIsToldApart) {
  const Mapping map = anonymous(1);
  const long child =
      ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto opened = Userfaultfd::open();
    ::_exit(opened && opened->register_missing(map.bytes()) ? opened->fd() : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(static_cast<pid_t>(child), &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) > 2);
  Userfaultfd orphan(Fd{WEXITSTATUS(status)});
  const auto outcome = orphan.copy(map.data(), pages_of(1, 1), Wake::kNo);
  ASSERT_TRUE(outcome) << outcome.error().context;
  EXPECT_EQ(outcome->what, Did::kProcessGone);
  EXPECT_EQ(outcome->bytes, 0u);
}

TEST_F(UserfaultfdTest, MemoryThatIsNotRegisteredIsToldApart) {
  Mapping map = anonymous(1);
  Userfaultfd uffd = Userfaultfd::open().value();
  const auto outcome = uffd.copy(map.data(), pages_of(1, 1), Wake::kNo);
  ASSERT_TRUE(outcome) << outcome.error().context;
  EXPECT_EQ(outcome->what, Did::kNoSuchRange);
}

// A read of poisoned memory fails; its neighbours are as they were.
TEST_F(UserfaultfdTest, PoisonedPagesCannotBeReadAndOthersCan) {
  Userfaultfd uffd = Userfaultfd::open().value();
  if ((uffd.offered() & abi::kFeaturePoison) == 0) GTEST_SKIP() << "this kernel cannot poison";
  Mapping map = anonymous(4);
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  ASSERT_EQ(uffd.copy(map.data(), pages_of(1, 4), Wake::kNo).value().what, Did::kAll);
  ASSERT_EQ(uffd.copy(map.data() + 3 * kPage, pages_of(1, 5), Wake::kNo).value().what, Did::kAll);
  const auto some = uffd.poison(map.bytes().subspan(kPage), Wake::kYes).value();
  EXPECT_EQ(some.what, Did::kSome);
  EXPECT_EQ(some.bytes, 2 * kPage);
  EXPECT_EQ(uffd.poison(map.bytes().first(kPage), Wake::kYes).value().what, Did::kAlreadyThere);
  std::byte one[1];
  for (const std::size_t page : {std::size_t{1}, std::size_t{2}}) {
    EXPECT_FALSE(guarded_copy(one, map.bytes().subspan(page * kPage, 1)));
  }
  EXPECT_EQ(map.data()[0], std::byte{4});
  EXPECT_EQ(map.data()[3 * kPage], std::byte{5});
}

TEST_F(UserfaultfdTest, ZeroedPagesAreThereAndZero) {
  Userfaultfd uffd = Userfaultfd::open().value();
  Mapping map = anonymous(2);
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  EXPECT_EQ(uffd.zero(map.bytes(), Wake::kYes).value().what, Did::kAll);
  EXPECT_EQ(uffd.zero(map.bytes(), Wake::kYes).value().what, Did::kAlreadyThere);
  EXPECT_TRUE(std::ranges::all_of(map.bytes(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(UserfaultfdTest, WithoutAFaultThereIsNoMessageAndNoWait) {
  Userfaultfd uffd = Userfaultfd::open().value();
  uffd_msg messages[4];
  EXPECT_EQ(uffd.read_messages(messages).value(), 0u);
}

TEST_F(UserfaultfdTest, AFaultIsAMessageAndItsThreadGoesOnOnceWoken) {
  Mapping map = anonymous(2);
  Userfaultfd uffd = Userfaultfd::open().value();
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  std::atomic<int> seen = -1;
  std::thread reader([&] { seen = static_cast<int>(map.data()[kPage + 5]); });
  pollfd polled = {.fd = uffd.fd(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&polled, 1, -1), 1);
  uffd_msg messages[4];
  ASSERT_EQ(uffd.read_messages(messages).value(), 1u);
  EXPECT_EQ(messages[0].event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(messages[0].arg.pagefault.address & ~(kPage - 1),
            reinterpret_cast<std::uintptr_t>(map.data() + kPage));
  ASSERT_EQ(uffd.copy(map.data() + kPage, pages_of(1, 9), Wake::kNo).value().what, Did::kAll);
  ASSERT_TRUE(uffd.wake(map.bytes()));
  reader.join();
  EXPECT_EQ(seen, 9);
}

}  // namespace
}  // namespace volt::uffd
