// A pager that lives and says nothing: it is asked, and counts as dead when it does not answer.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "tests/uffd/pager_fixture.h"

namespace volt::uffd {
namespace {

using pager::Inbox;

// So long that a busy machine does not keep a pager from answering in half of it.
constexpr std::uint64_t kSilentMs = 2'000;
constexpr std::uint64_t kPatienceMs = 60'000;

// Takes one VM and brings it no page; answers so many pings, and then nothing. Others find nobody
// at its path once it has its VM.
class SilentPager {
 public:
  SilentPager(const std::string& path, int answers)
      : listener_(pager::listen_at(path).value()),
        image_(SharedImage::create(kUnits * kUnit, kUnit).value()),
        thread_([this, answers] { run(answers); }) {}
  SilentPager(const SilentPager&) = delete;
  SilentPager& operator=(const SilentPager&) = delete;
  ~SilentPager() { thread_.join(); }

  int pings() const { return pings_; }
  void await_vm() const { has_vm_.wait(false); }

 private:
  void run(int answers) {
    pollfd ready = {.fd = listener_.get(), .events = POLLIN, .revents = 0};
    ::poll(&ready, 1, kPatienceMs);
    const Fd vm{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    listener_ = Fd();
    Inbox inbox;
    std::vector<Fd> handed_over;  // open as long as we are
    while (auto received = pager::await(vm.get(), inbox, kPatienceMs)) {
      for (Fd& fd : received->fds) handed_over.push_back(std::move(fd));
      if (std::holds_alternative<pager::Hello>(received->message)) welcome(vm);
      if (std::holds_alternative<pager::Attach>(received->message)) {
        EXPECT_TRUE(pager::send(vm.get(), pager::Attached{}));
        has_vm_ = true;
        has_vm_.notify_all();
      }
      if (!std::holds_alternative<pager::Ping>(received->message)) continue;
      if (++pings_ > answers) continue;
      EXPECT_TRUE(pager::send(vm.get(), pager::Pong{}));
    }
  }
  void welcome(const Fd& vm) const {
    const Fd documents{::memfd_create("documents", MFD_CLOEXEC)};
    const int fds[] = {documents.get(), image_.fd()};
    EXPECT_TRUE(pager::send(vm.get(),
                            pager::Welcome{.image_bytes = kUnits * kUnit,
                                           .unit_bytes = kUnit,
                                           .document_bytes = {0, 0},
                                           .image = kImageName},
                            fds));
  }

  Fd listener_;
  const SharedImage image_;
  std::atomic<int> pings_ = 0;
  std::atomic<bool> has_vm_ = false;
  std::thread thread_;
};

class SilentPagerTest : public UffdTest, public testing::WithParamInterface<LostPages> {
 protected:
  std::string path() const { return dir_.socket(); }
  MemoryVm vm() const {
    return MemoryVm({.path = path(), .image = kImageName, .silent_ms = kSilentMs}, GetParam(),
                    MemoryVm::must(Userfaultfd::open()));
  }

 private:
  SocketDir dir_;
};

TEST_P(SilentPagerTest, CountsAsDeadOnceItDoesNotAnswer) {
  skip_unless_able(GetParam());
  const SilentPager pager(path(), 1);
  MemoryVm waits = vm();
  EXPECT_FALSE(waits.sees(5)) << "it slept in a fault that nobody answers";
  EXPECT_EQ(pager.pings(), 2) << "one was answered, so it went on waiting";
  const auto why = waits.client().failure();
  ASSERT_TRUE(why);
  EXPECT_EQ(why->code, Code::kPageLost);
  EXPECT_NE(why->context.find(path()), std::string::npos) << why->context;
  EXPECT_NE(why->context.find("has said nothing for 2000 ms"), std::string::npos) << why->context;
}

TEST_P(SilentPagerTest, AnotherTakesItsVmOver) {
  skip_unless_able(GetParam());
  const SilentPager silent(path(), 0);
  MemoryVm vm = this->vm();
  silent.await_vm();
  const TestPager pager(path(), std::make_unique<DirectSource>(good_units()));
  EXPECT_TRUE(vm.sees(5));
  while (vm.client().takeovers() != 1) ::poll(nullptr, 0, 1);  // told after its pages come
  EXPECT_FALSE(vm.client().failure());
}

INSTANTIATE_TEST_SUITE_P(Ways, SilentPagerTest,
                         testing::Values(LostPages::kPoison, LostPages::kForbid), lost_pages_title);

// Never comes back from being asked for a unit, until it may: its fault thread is stuck.
class StuckSource final : public PageSource {
 public:
  explicit StuckSource(std::shared_ptr<std::atomic<bool>> may_go_on)
      : may_go_on_(std::move(may_go_on)) {}
  void request(std::span<const UnitRange>, Priority, UnitSink&) override {
    may_go_on_->wait(false);
  }

 private:
  std::shared_ptr<std::atomic<bool>> may_go_on_;
};

// One of its two fault threads is enough: whose faults it has cannot be told.
TEST_P(SilentPagerTest, APagerWithAStuckFaultThreadIsSilent) {
  skip_unless_able(GetParam());
  const auto may_go_on = std::make_shared<std::atomic<bool>>(false);
  const TestPager pager(path(), std::make_unique<StuckSource>(may_go_on),
                        {.faults = {.threads = 2, .deadline_ms = 0}, .stuck_ms = kSilentMs / 4});
  MemoryVm waits = vm();
  EXPECT_FALSE(waits.sees(5)) << "it slept in a fault that nobody answers";
  *may_go_on = true;
  may_go_on->notify_all();
  const auto why = waits.client().failure();
  ASSERT_TRUE(why);
  EXPECT_NE(why->context.find("has said nothing for 2000 ms"), std::string::npos) << why->context;
}

class PingTest : public UffdTest {};

TEST_F(PingTest, OursIsNotSilent) {
  const SocketDir dir;
  const TestPager pager(dir.socket(), std::make_unique<DirectSource>(good_units()));
  const Fd socket = pager::connect_to(dir.socket()).value();
  Inbox inbox;
  const auto answer = [&](const pager::Message& message, std::span<const int> fds = {}) {
    EXPECT_TRUE(pager::send(socket.get(), message, fds));
    return pager::await(socket.get(), inbox, kPatienceMs).value().message;
  };
  static_cast<void>(answer(pager::Hello{pager::Mode::kCopied, kImageName}));
  const Mapping map = MemoryVm::must(Mapping::create(kUnits * kUnit, PROT_READ | PROT_WRITE,
                                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "vm"));
  Userfaultfd uffd = MemoryVm::must(Userfaultfd::open());
  MemoryVm::must(uffd.register_missing(map.bytes()));
  const pager::WireView view = {reinterpret_cast<std::uintptr_t>(map.data()), map.size(), 0};
  const int fds[] = {uffd.fd()};
  EXPECT_EQ(answer(pager::Attach{{view}}, fds), pager::Message(pager::Attached{}));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answer(pager::Ping{}), pager::Message(pager::Pong{}));
  EXPECT_EQ(answer(pager::Forget{}), pager::Message(pager::Forgotten{}));
}

}  // namespace
}  // namespace volt::uffd
