#include "uffd/ready_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <csignal>

namespace volt::uffd {
namespace {

constexpr std::uint64_t kWakeUpKey = 0;
constexpr std::size_t kEventsAtOnce = 64;

// Signals are for the threads that run guests, but for those that a thread earns by itself.
sigset_t signals_of_others() {
  sigset_t set;
  ::sigfillset(&set);
  for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) ::sigdelset(&set, own);
  return set;
}

}  // namespace

ReadyLoop::ReadyLoop(Fd epoll, Fd wake_up, Work work)
    : epoll_(std::move(epoll)), wake_up_(std::move(wake_up)), work_(std::move(work)) {}

Result<std::unique_ptr<ReadyLoop>> ReadyLoop::start(Work work) {
  Fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll.valid()) return sys_error("epoll_create1");
  Fd wake_up{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!wake_up.valid()) return sys_error("eventfd");
  const int wake_up_fd = wake_up.get();
  std::unique_ptr<ReadyLoop> loop(
      new ReadyLoop(std::move(epoll), std::move(wake_up), std::move(work)));
  VOLT_TRY(loop->watch(wake_up_fd, kWakeUpKey));
  const sigset_t others = signals_of_others();
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, &others, &before);
  loop->thread_ = std::thread([raw = loop.get()] { raw->run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return loop;
}

void ReadyLoop::stop() {
  stop_ = true;
  poke();
  if (thread_.joinable()) thread_.join();
}

Result<> ReadyLoop::watch(int fd, std::uint64_t key) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = key;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return sys_error("epoll_ctl");
  return {};
}

void ReadyLoop::ignore(int fd) {
  // What is not watched any more is ignored already.
  static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr));
}

void ReadyLoop::poke() const {
  const std::uint64_t one = 1;
  // A full counter means that the thread has been told already.
  [[maybe_unused]] const ssize_t put = ::write(wake_up_.get(), &one, sizeof one);
}

void ReadyLoop::run() {
  std::array<epoll_event, kEventsAtOnce> events;
  while (!stop_) {
    const int sleep_ms = work_.before_sleep();
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), sleep_ms);
    for (int i = 0; i < count; ++i) {  // -1: EINTR; nothing else can be
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == kWakeUpKey) {
        std::uint64_t told;
        [[maybe_unused]] const ssize_t got = ::read(wake_up_.get(), &told, sizeof told);
      } else {
        const bool to_read = (event.events & (EPOLLERR | EPOLLHUP)) == 0;
        work_.on_ready(event.data.u64, to_read ? Ready::kToRead : Ready::kBroken);
      }
    }
  }
}

}  // namespace volt::uffd
