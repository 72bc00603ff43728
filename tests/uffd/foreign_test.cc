// Clones whose memory has nothing to do with the image, as a Firecracker VM's: they get copies, and
// may throw pages away.
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/uffd/hand_source.h"

namespace volt::uffd {
namespace {

using ForeignTest = UffdTest;
using Did = Userfaultfd::Did;
using Wake = Userfaultfd::Wake;

const CloneOptions kForeign = {.kind = CloneOptions::Kind::kForeign};
constexpr std::uint64_t kBytes = kUnits * kUnit;

// Anonymous memory whose removals are events, attached when its test says so.
class Memory {
 public:
  Memory()
      : map_(Mapping::create(kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                             "foreign")
                 .value()),
        uffd_(Userfaultfd::open(UFFD_FEATURE_EVENT_REMOVE).value()) {
    EXPECT_EQ(::madvise(map_.data(), kBytes, MADV_NOHUGEPAGE), 0);
    EXPECT_TRUE(uffd_.register_missing(map_.bytes()));
  }
  ~Memory() {
    if (server_ == nullptr) return;
    server_->forget(id_);
    ::mmap(map_.data(), kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    server_->detach(id_);
  }

  void attach(FaultServer& server, CloneOptions options = kForeign) {
    server_ = &server;
    id_ = server.attach(std::move(uffd_), {view()}, std::move(options)).value();
  }

  View view() const { return {map_.bytes(), 0}; }
  Userfaultfd& uffd() { return uffd_; }
  std::uint64_t id() const { return id_; }
  std::span<std::byte> unit(std::uint64_t which) const {
    return map_.bytes().subspan(which * kUnit, kUnit);
  }
  std::span<std::byte> page(std::uint64_t which) const {
    return map_.bytes().subspan(which * kPage, kPage);
  }
  // Waits until somebody has read the event.
  void remove(std::uint64_t first_page, std::uint64_t pages) const {
    EXPECT_EQ(::madvise(page(first_page).data(), pages * kPage, MADV_DONTNEED), 0);
  }

 private:
  Mapping map_;
  Userfaultfd uffd_;
  FaultServer* server_ = nullptr;
  std::uint64_t id_ = 0;
};

bool has_content(std::span<const std::byte> page, std::uint64_t which) {
  const auto unit = unit_bytes(which * kPage / kUnit);
  return std::ranges::equal(page, std::span(unit).subspan(which * kPage % kUnit, kPage));
}

bool is_zero(std::span<const std::byte> page) {
  return std::ranges::all_of(page, [](std::byte byte) { return byte == std::byte{0}; });
}

// A removal that nobody has read yet makes every copy say so.
void await_removal(Userfaultfd& uffd, std::byte* scratch) {
  const std::vector<std::byte> bytes(kPage);
  while (uffd.copy(scratch, bytes, Wake::kNo).value().what != Did::kBusy) std::this_thread::yield();
}

TEST_F(ForeignTest, ItGetsCopiesOfWholeUnitsAndKeepsWhatItWrites) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  Memory one, two;
  one.attach(*server);
  two.attach(*server);
  one.unit(2)[9] = std::byte{0xEE};
  for (std::uint64_t unit = 0; unit < kUnits; ++unit) {
    EXPECT_TRUE(std::ranges::equal(two.unit(unit), unit_bytes(unit))) << unit;
  }
  EXPECT_EQ(one.unit(2)[9], std::byte{0xEE});
  EXPECT_EQ(server->counts().faults, kUnits + 1) << "one for each unit";
  EXPECT_EQ(server->counts().units_filled, kUnits);
  expect_unit(Clone(*server), 2);
}

// A page it has already is its own, and ends no copy: the first call is cut short by it.
TEST_F(ForeignTest, PagesItHasAlreadyAreLeftAlone) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  Memory memory;
  const std::vector<std::byte> own(kPage, std::byte{7});
  for (const std::uint64_t page : {16u, 20u, 31u}) {
    ASSERT_EQ(memory.uffd().copy(memory.page(page).data(), own, Wake::kNo)->what, Did::kAll);
  }
  memory.attach(*server);
  for (std::uint64_t page = 17; page < 31; ++page) {
    EXPECT_TRUE(page == 20 || has_content(memory.page(page), page)) << page;
  }
  for (const std::uint64_t page : {16u, 20u, 31u}) {
    EXPECT_TRUE(std::ranges::equal(memory.page(page), own)) << page;
  }
  EXPECT_EQ(server->counts().faults, 1u);
}

TEST_F(ForeignTest, RemovedPagesAreZeroFromThenOn) {
  const auto asked = std::make_shared<Asked>();
  const auto server =
      serve(std::make_unique<DirectSource>([asked](std::uint64_t unit, UnitSink& done) {
        const UnitRange one[1] = {{.first = unit, .count = 1}};
        asked->note(one);
        done.filled(unit, unit_bytes(unit));
      }));
  Memory memory;
  memory.attach(*server);
  EXPECT_TRUE(has_content(memory.page(35), 35));
  memory.remove(34, 2);   // of a unit that was there,
  memory.remove(80, 1);   // one that was not,
  memory.remove(96, 16);  // and a whole one
  for (const std::uint64_t page : {34u, 35u, 80u, 96u, 111u}) {
    EXPECT_TRUE(is_zero(memory.page(page))) << page;
  }
  EXPECT_EQ(asked->times(5), 0) << "nothing of it was needed";
  EXPECT_EQ(asked->times(6), 0);
  for (const std::uint64_t page : {32u, 36u, 81u, 95u, 112u}) {
    EXPECT_TRUE(has_content(memory.page(page), page)) << page;
  }
  EXPECT_TRUE(is_zero(memory.page(80))) << "its unit came later, and without it";
}

// Both wait to be read when the server first looks: the fault was there before the removal.
TEST_F(ForeignTest, ARemovalAndAFaultOfOneBatchAreAppliedRemovalFirst) {
  Hand hand;
  Memory memory;
  std::thread reader([&] { EXPECT_TRUE(is_zero(memory.page(40))); });
  pollfd polled = {.fd = memory.uffd().fd(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&polled, 1, -1), 1);
  std::thread remover([&] { memory.remove(40, 1); });
  await_removal(memory.uffd(), memory.page(0).data());
  memory.attach(*hand.server);
  remover.join();
  reader.join();
  EXPECT_TRUE(hand.book->all().empty()) << "a removed page needs no unit";
}

// The answer is ready, and the clone is in the middle of removing: nothing is copied before the
// event is read, and then not the removed page.
TEST_F(ForeignTest, WhileARemovalIsUnreadTheCloneIsBusy) {
  skip_unless_able(LostPages::kPoison);
  if (IsSkipped()) return;
  Memory memory;
  const auto loop = ReadyLoop::start({.on_ready = [](std::uint64_t, ReadyLoop::Ready) {},
                                      .before_sleep = [] { return -1; }})
                        .value();
  ServedClone clone(std::move(memory.uffd()), {memory.view()}, kForeign,
                    {.image_bytes = kBytes,
                     .unit_bytes = kUnit,
                     .lost_pages = LostPages::kPoison,
                     .loop = *loop});
  std::thread remover([&] { memory.remove(40, 1); });
  const auto unit = unit_bytes(2);
  const auto place_at = [&](std::uint64_t page) {
    return clone.place_of(reinterpret_cast<std::uintptr_t>(memory.page(page).data())).value();
  };
  const auto other = unit_bytes(1);
  while (clone.show(place_at(16), other) != ServedClone::Answer::kBusy) std::this_thread::yield();
  EXPECT_EQ(clone.show(place_at(41), unit), ServedClone::Answer::kBusy);
  EXPECT_EQ(clone.lose(place_at(48), {Code::kSystem, 0, "lost"}, ServedClone::Need::kYes),
            ServedClone::Answer::kBusy);
  EXPECT_FALSE(clone.removed(place_at(40)));
  uffd_msg messages[4];
  ASSERT_EQ(clone.read(messages).value(), 1u);
  EXPECT_EQ(messages[0].event, UFFD_EVENT_REMOVE);
  EXPECT_TRUE(clone.removed(place_at(40)));
  while (clone.show(place_at(41), unit) == ServedClone::Answer::kBusy) std::this_thread::yield();
  remover.join();
  for (std::uint64_t page = 32; page < 48; ++page) {
    EXPECT_TRUE(page == 40 || has_content(memory.page(page), page)) << page;
  }
  EXPECT_EQ(clone.show(place_at(40), unit), ServedClone::Answer::kDone);
  EXPECT_TRUE(is_zero(memory.page(40)));
  clone.forget();
}

// Removals, faults and late answers all at once: each page is its content or zero, never another
// thing, and zero for good once its removal has returned.
TEST_F(ForeignTest, NothingIsEverBroughtBack) {
  auto source = std::make_unique<LaterSource>(good_units());
  source->release_at(1);
  const auto server = serve(std::move(source), {.threads = 2});
  for (int round = 0; round < 5; ++round) {
    Memory memory;
    memory.attach(*server);
    std::atomic<std::uint64_t> wrong = 0;
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] {
        for (std::uint64_t n = 0; n < kBytes / kPage; ++n) {
          const std::uint64_t page = (n * 17 + i * 250) % (kBytes / kPage);
          const auto got = memory.page(page);
          if (!has_content(got, page) && page % 3 != 0) ++wrong;
        }
      });
    }
    threads.emplace_back([&] {
      for (std::uint64_t page = 0; page < kBytes / kPage; page += 3) {
        memory.remove(page, 1);
        if (!is_zero(memory.page(page))) ++wrong;
      }
    });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0u);
    for (std::uint64_t page = 0; page < kBytes / kPage; page += 3) {
      ASSERT_TRUE(is_zero(memory.page(page))) << page;
    }
    EXPECT_FALSE(server->failure(memory.id()));
  }
}

// A unit that is cut into several mappings, one of them gone, is not one range to the kernel.
TEST_F(ForeignTest, AUnitInPiecesComesInPieces) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  Memory memory;
  ASSERT_EQ(::mprotect(memory.page(36).data(), kPage, PROT_READ), 0);
  ASSERT_EQ(::munmap(memory.page(40).data(), kPage), 0);
  memory.attach(*server);
  for (std::uint64_t page = 32; page < 48; ++page) {
    EXPECT_TRUE(page == 40 || has_content(memory.page(page), page)) << page;
  }
  EXPECT_EQ(server->counts().faults, 1u);
  EXPECT_FALSE(server->failure(memory.id()));
}

// It dies while its page is on its way. The child shares our descriptors but not our memory.
TEST_F(ForeignTest, AProcessThatIsGoneIsDroppedAndCostsOthersNothing) {
  Hand hand;
  const Mapping map =
      Mapping::create(kUnit, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "child").value();
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const long child =
      ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto opened = Userfaultfd::open();
    int fd = opened && opened->register_missing(map.bytes()) ? opened->fd() : -1;
    [[maybe_unused]] const ssize_t told = ::write(pipe[1], &fd, sizeof fd);
    ::_exit(peek(map.data()));
  }
  int fd = -1;
  ASSERT_EQ(::read(pipe[0], &fd, sizeof fd), static_cast<ssize_t>(sizeof fd));
  ASSERT_GE(fd, 0);
  const std::uint64_t id =
      hand.server->attach(Userfaultfd(Fd(fd)), {{map.bytes(), 0}}, kForeign).value();
  hand.book->await(1);
  ASSERT_EQ(::kill(static_cast<pid_t>(child), SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(static_cast<pid_t>(child), &status, 0), child);
  const Clone other(*hand.server);
  std::thread reader([&] { expect_unit(other, 0); });
  while (hand.server->counts().faults < 2) std::this_thread::yield();
  hand.book->fill(0);
  reader.join();
  const std::optional<Error> why = hand.server->failure(id);
  ASSERT_TRUE(why);
  EXPECT_EQ(why->context, "the process of the clone is gone");
  EXPECT_FALSE(hand.server->failure());
  hand.server->detach(id);
  for (const int end : pipe) ::close(end);
}

TEST_F(ForeignTest, ALostUnitIsPoisonedFromOutside) {
  skip_unless_able(LostPages::kPoison);
  if (IsSkipped()) return;
  Hand hand({.deadline_ms = 20});
  Memory memory;
  memory.attach(*hand.server, {.kind = CloneOptions::Kind::kForeign,
                               .home = CloneOptions::Home::kAnotherProcess});
  memory.remove(53, 1);
  std::byte one[1];
  EXPECT_FALSE(guarded_copy(one, memory.page(50).first(1)));
  EXPECT_FALSE(guarded_copy(one, memory.page(63).last(1)));
  EXPECT_TRUE(is_zero(memory.page(53))) << "what was thrown away needs no unit";
  EXPECT_NE(hand.server->failure(memory.id())->context.find("image unit 3"), std::string::npos);
}

// Without poison only the owner of the memory can stop its guest.
TEST_F(ForeignTest, WithoutPoisonItsOwnerIsTold) {
  Hand hand({.deadline_ms = 20, .lost_pages = LostPages::kForbid});
  Memory memory;
  const Fd kept{::dup(memory.uffd().fd())};
  std::atomic<int> told = 0;
  memory.attach(*hand.server, {.kind = CloneOptions::Kind::kForeign,
                               .home = CloneOptions::Home::kAnotherProcess,
                               .on_lost = [&](std::uint64_t unit) {
                                 EXPECT_EQ(unit, 3u);
                                 ++told;
                                 EXPECT_EQ(::mprotect(memory.unit(3).data(), kUnit, PROT_NONE), 0);
                                 uffdio_range range = {
                                     reinterpret_cast<std::uintptr_t>(memory.unit(3).data()),
                                     kUnit};
                                 EXPECT_EQ(::ioctl(kept.get(), UFFDIO_WAKE, &range), 0);
                               }});
  std::byte one[1];
  EXPECT_FALSE(guarded_copy(one, memory.page(50).first(1)));
  EXPECT_FALSE(guarded_copy(one, memory.page(51).first(1)));
  EXPECT_EQ(told, 1);
}

TEST_F(ForeignTest, ACloneThatNobodyCouldStopIsRefused) {
  const auto server =
      serve(std::make_unique<DirectSource>(good_units()), {.lost_pages = LostPages::kForbid});
  const auto attached = server->attach(
      Userfaultfd::open().value(), {},
      {.kind = CloneOptions::Kind::kForeign, .home = CloneOptions::Home::kAnotherProcess});
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code, Code::kInvalid);
}

// Registered by its owner, and shown by no view.
TEST_F(ForeignTest, AFaultOutsideEveryViewStopsWhoeverMadeIt) {
  const auto server = serve(std::make_unique<DirectSource>(good_units()));
  Memory memory;
  const std::uint64_t id =
      server->attach(std::move(memory.uffd()), {{memory.view().host.first(kUnit), 0}}, kForeign)
          .value();
  EXPECT_TRUE(has_content(memory.page(1), 1));
  std::byte one[1];
  EXPECT_FALSE(guarded_copy(one, memory.page(30).first(1)));
  EXPECT_EQ(server->failure(id)->context, "a fault outside every view of its clone");
  server->forget(id);
  server->detach(id);
}

}  // namespace
}  // namespace volt::uffd
