// Firecracker's protocol, byte by byte: its VMs served by our pager, and our VMs by a handler that
// was written for it.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>

#include "tests/uffd/pager_fixture.h"
#include "uffd/firecracker.h"

namespace volt::uffd {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// ---- The VM's side, as Firecracker has it: two regions of anonymous memory.

class FirecrackerVm {
 public:
  static constexpr std::uint64_t kFirst = 32 * kUnit, kSecond = 16 * kUnit;

  explicit FirecrackerVm(const std::string& path)
      : uffd_(*Userfaultfd::open(UFFD_FEATURE_EVENT_REMOVE)), socket_(*pager::connect_to(path)) {
    for (const Mapping* map : {&first_, &second_}) {
      EXPECT_TRUE(uffd_.register_missing(map->bytes()));
    }
  }
  // `page` is the rest of each object.
  std::string hand_shake(const std::string& page) const {
    char text[512];
    std::snprintf(text, sizeof text,
                  R"([{"base_host_virt_addr":%llu,"size":%llu,"offset":0%s},)"
                  R"({"base_host_virt_addr":%llu,"size":%llu,"offset":%llu%s}])",
                  address(first_), static_cast<unsigned long long>(kFirst), page.c_str(),
                  address(second_), static_cast<unsigned long long>(kSecond),
                  static_cast<unsigned long long>(kFirst), page.c_str());
    return text;
  }
  void say(const std::string& text) {
    const int fd = uffd_.fd();
    ASSERT_TRUE(pager::send_bytes(socket_.get(), bytes_of(text), std::span(&fd, 1)));
  }
  bool is_closed() const {
    pager::Inbox inbox;
    const auto heard = pager::await(socket_.get(), inbox, 60'000);
    return !heard && heard.error().code == Code::kPageLost;
  }
  std::span<std::byte> page(std::uint64_t offset) const {
    return offset < kFirst ? first_.bytes().subspan(offset, kPage)
                           : second_.bytes().subspan(offset - kFirst, kPage);
  }
  bool sees(std::uint64_t offset) const {
    std::vector<std::byte> got(kPage);
    const std::vector<std::byte> unit = unit_bytes(offset / kUnit);
    return guarded_copy(got, page(offset)) &&
           std::ranges::equal(got, std::span(unit).subspan(offset % kUnit, kPage));
  }
  int socket() const { return socket_.get(); }

 private:
  static unsigned long long address(const Mapping& map) {
    return reinterpret_cast<std::uintptr_t>(map.data());
  }
  static Mapping anonymous(std::uint64_t bytes) {
    return *Mapping::create(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "");
  }
  Userfaultfd uffd_;  // closed after its memory is gone
  Mapping first_ = anonymous(kFirst), second_ = anonymous(kSecond);
  Fd socket_;
};

class FirecrackerTest : public UffdTest {
 protected:
  std::string path() const { return dir_.socket(); }
  std::unique_ptr<TestPager> pager() const {
    return std::make_unique<TestPager>(
        path(), std::make_unique<DirectSource>(good_units()),
        PagerTweaks{.firecracker_image = kImageName, .hello_deadline_ms = 1'000});
  }

 private:
  SocketDir dir_;
};

TEST_F(FirecrackerTest, AVmOfEveryGenerationSeesTheSnapshot) {
  const auto served = pager();
  for (const char* page :
       {"", R"(,"page_size_kib":4096)", R"(,"page_size":4096,"page_size_kib":4096)",
        R"(,"page_size":4096,"gpa_start":0,"is_guest_memfd":false,"new":{"a":"b"})"}) {
    FirecrackerVm vm(path());
    vm.say(vm.hand_shake(page));
    for (std::uint64_t offset = 0; offset < kUnits * kUnit; offset += 5 * kPage) {
      EXPECT_TRUE(vm.sees(offset)) << page;
    }
  }
  EXPECT_EQ(served->server().counts().units_filled, kUnits);
  EXPECT_EQ(served->log(), "");
}

TEST_F(FirecrackerTest, WhatItsBalloonTakesComesBackAsZeros) {
  const auto served = pager();
  FirecrackerVm vm(path());
  vm.say(vm.hand_shake(R"(,"page_size":4096)"));
  EXPECT_TRUE(vm.sees(kUnit));
  const auto page = vm.page(kUnit);
  ASSERT_EQ(::madvise(page.data(), page.size(), MADV_DONTNEED), 0);
  EXPECT_EQ(peek(page.data()), 0);
  EXPECT_TRUE(vm.sees(kUnit + kPage)) << "its neighbour stays";
}

TEST_F(FirecrackerTest, AHandShakeInPiecesAndWhatComesAfterItIsTolerated) {
  const auto served = pager();
  FirecrackerVm vm(path());
  const std::string text = vm.hand_shake("");
  vm.say(text.substr(0, 1));
  for (const char each : text.substr(1)) {
    ASSERT_TRUE(pager::send_bytes(vm.socket(), bytes_of({each}), {}));
  }
  EXPECT_TRUE(vm.sees(0));
  ASSERT_TRUE(pager::send_bytes(vm.socket(), bytes_of("more"), {}));
  EXPECT_TRUE(vm.sees(7 * kUnit));
}

TEST_F(FirecrackerTest, AVmThatEndsIsForgotten) {
  const auto served = pager();
  {
    FirecrackerVm vm(path());
    vm.say(vm.hand_shake(""));
    EXPECT_TRUE(vm.sees(0));
  }
  {
    FirecrackerVm never_says_anything(path());
  }
  served->await_connections(0);
  EXPECT_EQ(served->server().clones(), 0U);
}

TEST_F(FirecrackerTest, WhatIsNoHandShakeIsRefusedAndSaidWhy) {
  const auto served = pager();
  const std::pair<const char*, const char*> cases[] = {
      {R"([{"base_host_virt_addr":1048576,"size":4096,"offset":0}])", "size"},
      {R"([{"base_host_virt_addr":1048576,"size":-1,"offset":0}])", "size: a number"},
      {R"([{"base_host_virt_addr":1048576,"offset":0}])", "size: a number"},
      {R"([{"size":1,"offset":0,"page_size":2097152}])", "2097152, only 4096"},
      {R"([1,2])", "an object each"},
      {R"([])", "an array of 1"},
      {R"([{"size":18446744073709551615,"base_host_virt_addr":4096,"offset":0},)"
       R"({"size":3145729,"base_host_virt_addr":4096,"offset":0}])",
       "size"},
      {"[}]", "no JSON"},
  };
  for (const auto& [text, why] : cases) {
    FirecrackerVm vm(path());
    vm.say(text);
    EXPECT_TRUE(vm.is_closed()) << text;
    served->await_connections(0);
    EXPECT_NE(served->log().find(why), std::string::npos) << text << "\n" << served->log();
  }
  const std::string deep(10'000, '[');
  FirecrackerVm nested(path());
  nested.say(deep + "]");
  EXPECT_TRUE(nested.is_closed());
  FirecrackerVm unfinished(path());
  unfinished.say("[{");
  EXPECT_TRUE(unfinished.is_closed()) << "at its deadline";
  FirecrackerVm without(path());
  ASSERT_TRUE(pager::send_bytes(without.socket(), bytes_of(without.hand_shake("")), {}));
  EXPECT_TRUE(without.is_closed());
}

TEST_F(FirecrackerTest, BothProtocolsOnOneSocket) {
  const auto served = pager();
  FirecrackerVm theirs(path());
  theirs.say(theirs.hand_shake(""));
  EXPECT_TRUE(theirs.sees(kUnit));
  EXPECT_TRUE(MemoryVm(path()).sees(1));
}

// ---- The handler's side, after what the published example does: one message of at most 1,024
// bytes and one descriptor, then a page for each fault.

class Handler {
 public:
  explicit Handler(const std::string& path) : listener_(*pager::listen_at(path)) {
    thread_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
  }
  std::string said() const {
    const std::lock_guard lock(mutex_);
    return said_;
  }

 private:
  static bool wait(int fd, const std::stop_token& stop) {
    pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
    while (!stop.stop_requested()) {
      if (::poll(&ready, 1, 5) > 0) return (ready.revents & POLLIN) != 0;
    }
    return false;
  }
  void serve(const std::stop_token& stop) {
    if (!wait(listener_.get(), stop)) return;
    const Fd socket{::accept(listener_.get(), nullptr, nullptr)};
    if (!wait(socket.get(), stop)) return;
    char text[1024];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part = {.iov_base = text, .iov_len = sizeof text};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(socket.get(), &header, 0);
    ASSERT_GT(got, 0);
    {
      const std::lock_guard lock(mutex_);
      said_.assign(text, static_cast<std::size_t>(got));
    }
    int fd;
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof fd);
    Userfaultfd uffd{Fd(fd)};
    unsigned long long base = 0;
    ASSERT_EQ(std::sscanf(text, R"([{"base_host_virt_addr":%llu)", &base), 1);
    uffd_msg message;
    while (wait(uffd.fd(), stop)) {
      const auto count = uffd.read_messages(std::span(&message, 1));
      if (!count || *count == 0 || message.event != UFFD_EVENT_PAGEFAULT) continue;
      const std::uint64_t at = (message.arg.pagefault.address & ~(kPage - 1)) - base;
      const std::vector<std::byte> unit = unit_bytes(at / kUnit);
      auto* const to = reinterpret_cast<std::byte*>(base + at);
      ASSERT_TRUE(
          uffd.copy(to, std::span(unit).subspan(at % kUnit, kPage), Userfaultfd::Wake::kYes));
    }
  }

  Fd listener_;
  mutable std::mutex mutex_;
  std::string said_;
  std::jthread thread_;
};

TEST_F(FirecrackerTest, OurVmSaysExactlyWhatFirecrackerSays) {
  auto handler = std::make_unique<Handler>(path());
  const Mapping map = *Mapping::create(kUnits * kUnit, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "vm");
  Userfaultfd uffd = *Userfaultfd::open(UFFD_FEATURE_EVENT_REMOVE);
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  auto client = *PagerClient::connect_handler(path());
  ASSERT_TRUE(client->attach(std::move(uffd), {{.host = map.bytes(), .image_offset = 0}}));
  std::vector<std::byte> got(kUnit);
  ASSERT_TRUE(guarded_copy(got, map.bytes().subspan(3 * kUnit, kUnit)));
  EXPECT_EQ(got, unit_bytes(3));
  char expected[256];
  std::snprintf(expected, sizeof expected,
                R"([{"base_host_virt_addr":%llu,"size":%llu,"offset":0,)"
                R"("page_size":4096,"page_size_kib":4096}])",
                static_cast<unsigned long long>(reinterpret_cast<std::uintptr_t>(map.data())),
                static_cast<unsigned long long>(kUnits * kUnit));
  EXPECT_EQ(handler->said(), expected);
  // It goes; nobody comes back at that protocol.
  handler.reset();
  EXPECT_FALSE(guarded_copy(got, map.bytes().subspan(4 * kUnit, kUnit)));
  const auto why = client->failure();
  ASSERT_TRUE(why);
  EXPECT_NE(why->context.find("the handler at " + path()), std::string::npos) << why->context;
  ASSERT_TRUE(guarded_copy(got, map.bytes().subspan(3 * kUnit, kUnit)));
  client->forget();
}

TEST_F(FirecrackerTest, OurVmAtOurOwnPagerByThatProtocol) {
  const auto served = pager();
  const Mapping map = *Mapping::create(kUnits * kUnit, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "vm");
  Userfaultfd uffd = *Userfaultfd::open(UFFD_FEATURE_EVENT_REMOVE);
  ASSERT_TRUE(uffd.register_missing(map.bytes()));
  auto client = *PagerClient::connect_handler(path());
  ASSERT_TRUE(client->attach(std::move(uffd), {{.host = map.bytes(), .image_offset = 0}}));
  std::vector<std::byte> got(kUnit);
  for (std::uint64_t unit = 0; unit < kUnits; ++unit) {
    ASSERT_TRUE(guarded_copy(got, map.bytes().subspan(unit * kUnit, kUnit)));
    EXPECT_EQ(got, unit_bytes(unit));
  }
  client->forget();
}

}  // namespace
}  // namespace volt::uffd
