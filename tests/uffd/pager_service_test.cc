// A pager's socket: VMs that behave, and all the ways in which one may not.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/uffd/pager_fixture.h"

namespace volt::uffd {
namespace {

using pager::Mode;
using pager::send;

class PagerServiceTest : public UffdTest {
 protected:
  std::string path() const { return dir_.socket(); }
  std::unique_ptr<TestPager> good_pager(const PagerTweaks& tweaks = {}) const {
    return std::make_unique<TestPager>(path(), std::make_unique<DirectSource>(good_units()),
                                       tweaks);
  }

 private:
  SocketDir dir_;
};

// A peer that says what the test wants.
class Peer {
 public:
  explicit Peer(const std::string& path) : socket_(*pager::connect_to(path)) {}

  void say(const pager::Message& message, std::span<const int> fds = {}) {
    ASSERT_TRUE(send(socket_.get(), message, fds));
  }
  void say_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {}) {
    static_cast<void>(pager::send_bytes(socket_.get(), bytes, fds));
  }
  template <typename T>
  T hear() {
    return std::get<T>(pager::await(socket_.get(), inbox_, 60'000).value().message);
  }
  // The pager closes the connection, whatever it says before.
  bool is_refused() {
    for (;;) {
      const auto heard = pager::await(socket_.get(), inbox_, 60'000);
      if (!heard) return heard.error().code == Code::kPageLost;
    }
  }
  void hello(Mode mode = Mode::kCopied) {
    say(pager::Hello{mode, kImageName});
    static_cast<void>(hear<pager::Welcome>());
  }
  int fd() const { return socket_.get(); }

 private:
  Fd socket_;
  pager::Inbox inbox_;
};

TEST_F(PagerServiceTest, VmsOfEveryModeSeeTheImage) {
  const auto pager = good_pager();
  for (const Mode mode : {Mode::kShared, Mode::kIsolated}) {
    MemoryVm vm(path(), mode);
    for (std::uint64_t unit = 0; unit < kUnits; ++unit) EXPECT_TRUE(vm.sees(unit));
  }
  EXPECT_EQ(pager->server().counts().units_filled, kUnits);
}

TEST_F(PagerServiceTest, AVmThatGoesIsForgotten) {
  const auto pager = good_pager();
  {
    EXPECT_TRUE(MemoryVm(path()).sees(0));
  }
  pager->await_connections(0);
  EXPECT_EQ(pager->server().clones(), 0U);
}

TEST_F(PagerServiceTest, ASecondPagerIsRefusedAndADeadOnesSocketIsTaken) {
  {
    const auto pager = good_pager();
    EXPECT_THROW(good_pager(), std::runtime_error);
    EXPECT_TRUE(MemoryVm(path()).sees(1)) << "the first goes on";
  }
  EXPECT_NE(::access(path().c_str(), F_OK), 0) << "it takes its socket along";
  {
    const Fd dead = pager::listen_at(path()).value();
  }
  const auto pager = good_pager();
  EXPECT_TRUE(MemoryVm(path()).sees(1));
}

TEST_F(PagerServiceTest, WhatIsNoSocketOrAnothersIsLeftAlone) {
  {
    const Fd file{::open(path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)};
    EXPECT_THROW(good_pager(), std::runtime_error);
    EXPECT_EQ(::unlink(path().c_str()), 0);
  }
  const Fd other = pager::listen_at(path()).value();
  EXPECT_THROW(good_pager(), std::runtime_error);
  struct stat info;
  EXPECT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_NE(::access((path() + ".lock").c_str(), F_OK), 0) << "what was not taken is not locked";
}

TEST_F(PagerServiceTest, APathThatIsTooLongIsRefusedBeforeAnythingIsMade) {
  const std::string path(150, 'x');
  const auto pager = PagerService::start({.path = path});
  ASSERT_FALSE(pager);
  EXPECT_EQ(pager.error().code, Code::kInvalid);
  EXPECT_NE(::access((path + ".lock").c_str(), F_OK), 0);
}

TEST_F(PagerServiceTest, AnUnknownImageIsRefusedByName) {
  const auto pager = good_pager();
  const auto refused = PagerClient::connect({.path = path(), .image = "other"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kNotFound);
  EXPECT_NE(refused.error().context.find("no image 'other'"), std::string::npos);
}

// ---- Peers that misbehave. A good VM looks on.

class MisbehaviourTest : public PagerServiceTest {
 protected:
  void SetUp() override {
    PagerServiceTest::SetUp();
    if (IsSkipped()) return;
    pager_ = good_pager({.hello_deadline_ms = 1'000});
    vm_ = std::make_unique<MemoryVm>(path());
  }
  void TearDown() override {
    if (vm_ == nullptr) return;
    pager_->await_connections(1);
    EXPECT_EQ(pager_->server().clones(), 1U);
    EXPECT_TRUE(vm_->sees(0));
    EXPECT_TRUE(MemoryVm(path()).sees(1));
  }
  std::unique_ptr<TestPager> pager_;
  std::unique_ptr<MemoryVm> vm_;
};

std::vector<std::byte> attach_bytes(std::vector<pager::WireView> views, std::size_t fds = 1) {
  return pager::encode(pager::Attach{std::move(views)}, fds);
}
const pager::WireView kView = {0x10000000, kUnit, 0};

TEST_F(MisbehaviourTest, Garbage) {
  Peer peer(path());
  peer.say_bytes(std::vector<std::byte>(5000, std::byte{0x5A}));
  EXPECT_TRUE(peer.is_refused());
}

TEST_F(MisbehaviourTest, HalfAMessageAndSilence) {
  Peer peer(path());
  const auto bytes = pager::encode(pager::Hello{Mode::kShared, kImageName}, 0);
  peer.say_bytes(std::span(bytes).first(20));
  EXPECT_TRUE(peer.is_refused());
}

TEST_F(MisbehaviourTest, HalfAMessageAndGone) {
  Peer peer(path());
  const auto bytes = pager::encode(pager::Hello{Mode::kShared, kImageName}, 0);
  peer.say_bytes(std::span(bytes).first(20));
}

TEST_F(MisbehaviourTest, SilenceFromTheStartAndAfterAHello) {
  Peer silent(path()), greets(path());
  greets.hello();
  EXPECT_TRUE(silent.is_refused());
  EXPECT_TRUE(greets.is_refused());
}

TEST_F(MisbehaviourTest, AMessageInPiecesIsFine) {
  Peer peer(path());
  for (const std::byte each : pager::encode(pager::Hello{Mode::kCopied, kImageName}, 0)) {
    peer.say_bytes(std::span(&each, 1));
  }
  EXPECT_EQ(peer.hear<pager::Welcome>().image, kImageName);
}

TEST_F(MisbehaviourTest, HugeLengthsUnknownTypesAndVersions) {
  for (const std::size_t at : {4UL, 6UL, 8UL, 12UL}) {
    Peer peer(path());
    auto bytes = pager::encode(pager::Hello{Mode::kShared, kImageName}, 0);
    bytes[at] = bytes[at + 1] = std::byte{0xFF};
    if (at >= 8) bytes[at + 2] = bytes[at + 3] = std::byte{0xFF};
    peer.say_bytes(bytes);
    EXPECT_TRUE(peer.is_refused()) << at;
  }
}

TEST_F(MisbehaviourTest, MessagesOutOfTurn) {
  for (const pager::Message& message :
       {pager::Message(pager::Forget{}), pager::Message(pager::Close{1}),
        pager::Message(pager::Attached{}), pager::Message(pager::Lost{1, "x"}),
        pager::Message(pager::Ping{})}) {
    Peer peer(path());
    peer.say(message);
    EXPECT_TRUE(peer.is_refused());
  }
  Peer twice(path());
  twice.hello();
  twice.say(pager::Hello{Mode::kCopied, kImageName});
  EXPECT_TRUE(twice.is_refused());
}

TEST_F(MisbehaviourTest, NoDescriptor) {
  Peer peer(path());
  peer.hello();
  peer.say_bytes(attach_bytes({kView}));
  EXPECT_TRUE(peer.is_refused());
}

TEST_F(MisbehaviourTest, TooManyDescriptors) {
  const Userfaultfd uffd = Userfaultfd::open().value();
  const int two[] = {uffd.fd(), uffd.fd()};
  Peer claims(path()), hides(path()), gathers(path());
  claims.hello();
  claims.say_bytes(attach_bytes({kView}, 2), two);
  EXPECT_TRUE(claims.is_refused());
  hides.hello();
  hides.say_bytes(attach_bytes({kView}, 1), two);
  EXPECT_TRUE(hides.is_refused());
  const std::byte one[] = {std::byte{0x56}};
  gathers.say_bytes(one, two);
  gathers.say_bytes(one, two);
  EXPECT_TRUE(gathers.is_refused());
}

TEST_F(MisbehaviourTest, DescriptorsThatAreNoUserfaultfd) {
  const Fd memfd{::memfd_create("x", MFD_CLOEXEC)};
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end{ends[0]}, write_end{ends[1]};
  for (const int fd : {memfd.get(), read_end.get(), write_end.get()}) {
    Peer peer(path());
    peer.hello();
    peer.say_bytes(attach_bytes({kView}), std::span(&fd, 1));
    EXPECT_TRUE(peer.is_refused());
  }
}

TEST_F(MisbehaviourTest, ViewsThatCannotBe) {
  const Userfaultfd uffd = Userfaultfd::open().value();
  const int fds[] = {uffd.fd()};
  const std::uint64_t base = 0x10000000;
  const std::vector<std::vector<pager::WireView>> all = {
      {{base, 0, 0}},
      {{base, kUnit + 1, 0}},
      {{base + 1, kUnit, 0}},
      {{0, kUnit, 0}},
      {{base, kUnit, 1}},
      {{base, kUnit, kUnits * kUnit}},
      {{base, (kUnits + 1) * kUnit, 0}},
      {{base, ~(kUnit - 1), kUnit}},
      {{~(kUnit - 1), kUnit, 0}},
      {{base, 2 * kUnit, 0}, {base + kUnit, kUnit, 2 * kUnit}},
      {{base, 2 * kUnit, 0}, {base + 4 * kUnit, kUnit, kUnit}},
      {kView, kView},
  };
  for (const auto& views : all) {
    Peer peer(path());
    peer.hello();
    peer.say_bytes(attach_bytes(views), fds);
    EXPECT_EQ(peer.hear<pager::Refused>().code, Code::kInvalid);
    EXPECT_TRUE(peer.is_refused());
  }
}

// Addresses where it has nothing: served, and nothing comes of it.
TEST_F(MisbehaviourTest, RangesThatAreNotItsOwn) {
  const Userfaultfd uffd = Userfaultfd::open().value();
  const int fds[] = {uffd.fd()};
  const auto mine = reinterpret_cast<std::uintptr_t>(vm_->bytes().data());
  Peer peer(path());
  peer.hello();
  peer.say_bytes(attach_bytes({{mine, kUnits * kUnit, 0}}), fds);
  static_cast<void>(peer.hear<pager::Attached>());
  for (std::uint64_t unit = 0; unit < kUnits; ++unit) EXPECT_TRUE(vm_->sees(unit));
}

// Whoever reads the userfaultfd must not be put to sleep by whoever sent it.
TEST_F(MisbehaviourTest, AUserfaultfdThatIsMadeToBlock) {
  const Userfaultfd uffd = Userfaultfd::open().value();
  const int fds[] = {uffd.fd()};
  Peer peer(path());
  peer.hello();
  peer.say_bytes(attach_bytes({kView}), fds);
  static_cast<void>(peer.hear<pager::Attached>());
  ASSERT_EQ(::fcntl(uffd.fd(), F_SETFL, 0), 0);
}

TEST_F(MisbehaviourTest, AVmThatNeverReadsWhatItIsTold) {
  Peer peer(path());
  for (int i = 0; i < 100'000; ++i) {
    if (!send(peer.fd(), pager::AskStats{})) break;
  }
}

// ---- Units that cannot be had.

class LostAtPagerTest : public PagerServiceTest, public testing::WithParamInterface<LostPages> {};

TEST_P(LostAtPagerTest, StopOnlyTheVmsThatNeedThem) {
  skip_unless_able(GetParam());
  if (IsSkipped()) return;
  TestPager pager(path(), std::make_unique<DirectSource>([](std::uint64_t unit, UnitSink& done) {
                    if (unit != 3) return done.filled(unit, unit_bytes(unit));
                    done.failed(unit, {Code::kCorrupt, 0, "pack-7: its sum is wrong"});
                  }),
                  {.faults = {.lost_pages = GetParam()}});
  for (const Mode mode : {Mode::kShared, Mode::kIsolated}) {
    MemoryVm needs(path(), mode), needs_not(path(), mode);
    EXPECT_FALSE(needs.sees(3));
    const auto why = needs.client().failure();
    ASSERT_TRUE(why);
    EXPECT_EQ(why->context, "image unit 3: pack-7: its sum is wrong");
    EXPECT_TRUE(needs.sees(4));
    EXPECT_TRUE(needs_not.sees(2));
    EXPECT_FALSE(needs_not.client().failure());
  }
}

// The pager is in this process and ends with its sockets, as a killed one does.
TEST_P(LostAtPagerTest, AllOfThemWhenThePagerIsGone) {
  skip_unless_able(GetParam());
  if (IsSkipped()) return;
  const auto book = std::make_shared<HandSource::Book>();
  for (const Mode mode : {Mode::kShared, Mode::kIsolated}) {
    auto pager = std::make_unique<TestPager>(path(), std::make_unique<HandSource>(book));
    MemoryVm vm(path(), mode, GetParam());
    std::thread reader([&] { EXPECT_FALSE(vm.sees(5)); });
    book->await(1);
    pager.reset();
    reader.join();  // it slept in a fault that nobody else answers
    const auto why = vm.client().failure();
    ASSERT_TRUE(why);
    EXPECT_EQ(why->code, Code::kPageLost);
    EXPECT_NE(why->context.find(path()), std::string::npos) << why->context;
    EXPECT_FALSE(vm.sees(9));
    book->asks.clear();
  }
}

TEST_P(LostAtPagerTest, UnlessAnotherOneComes) {
  skip_unless_able(GetParam());
  if (IsSkipped()) return;
  const auto book = std::make_shared<HandSource::Book>();
  for (const Mode mode : {Mode::kShared, Mode::kIsolated}) {
    auto pager = std::make_unique<TestPager>(path(), std::make_unique<HandSource>(book));
    MemoryVm vm(path(), mode, GetParam());
    std::thread reader([&] { EXPECT_TRUE(vm.sees(5)); });
    book->await(1);
    pager.reset();
    pager = good_pager();
    reader.join();
    while (vm.client().takeovers() != 1) ::poll(nullptr, 0, 1);  // told after its pages come
    vm.bytes()[7 * kUnit] = std::byte{1};  // private before its unit came: copied when written
    for (std::uint64_t unit = 0; unit < kUnits; ++unit) {
      if (unit == 7) continue;
      EXPECT_TRUE(vm.sees(unit));
    }
    EXPECT_EQ(vm.bytes()[7 * kUnit], std::byte{1});
    EXPECT_FALSE(vm.client().failure());
    book->asks.clear();
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, LostAtPagerTest,
                         testing::Values(LostPages::kPoison, LostPages::kForbid), lost_pages_title);

// ---- Many.

TEST_F(PagerServiceTest, AThousandVmsAreServed) {
  constexpr std::size_t kVms = 1000;
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
  // Both ends are here: two sockets, two userfaultfds and an eventfd each.
  if (limit.rlim_max < kVms * 5 + 100) GTEST_SKIP() << "at most " << limit.rlim_max << " files";
  const auto pager = good_pager({.faults = {.threads = 2}});
  std::vector<std::unique_ptr<MemoryVm>> vms;
  for (std::size_t i = 0; i < kVms; ++i) {
    vms.push_back(std::make_unique<MemoryVm>(path(), i % 2 == 0 ? Mode::kShared : Mode::kIsolated));
  }
  EXPECT_EQ(pager->service().connections(), kVms);
  for (std::size_t i = 0; i < kVms; ++i) EXPECT_TRUE(vms[i]->sees(i % kUnits));
  EXPECT_EQ(pager->server().counts().units_filled, kUnits);
  vms.clear();
  pager->await_connections(0);
}

}  // namespace
}  // namespace volt::uffd
