#include "vmm/interrupt.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <utility>

namespace volt::vmm {
namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

// Read by signal handlers: which kvm_run page this thread runs, if any.
thread_local kvm_run* volatile t_running = nullptr;
std::atomic<int> g_stop = 0;  // the signal that asked
std::atomic<bool> g_answered = false;
static_assert(std::atomic<int>::is_always_lock_free);

int deadline_signal() {
  return SIGRTMIN;
}

std::uint64_t now_ns() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kNsPerSecond +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void on_deadline(int) {
  if (kvm_run* const page = t_running) page->immediate_exit = 1;
}

void on_stop(int signal) {
  if (g_stop.exchange(signal) != 0) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
  on_deadline(signal);
}

bool handle(int signal, void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  return ::sigaction(signal, &action, nullptr) == 0;
}

// One timer for each thread that ever runs a vCPU with a deadline; it signals that very thread.
class ThreadTimer {
 public:
  ~ThreadTimer() {
    if (maker_ == ::getpid()) ::timer_delete(timer_);
  }

  Result<> set(std::uint64_t at_ns) {
    if (maker_ != ::getpid()) VOLT_TRY(make());  // a child of fork(2) inherits no timers
    at_ns = std::max<std::uint64_t>(at_ns, 1);   // 0 would switch the timer off
    const itimerspec when = {.it_interval = {},
                             .it_value = {.tv_sec = static_cast<time_t>(at_ns / kNsPerSecond),
                                          .tv_nsec = static_cast<long>(at_ns % kNsPerSecond)}};
    if (::timer_settime(timer_, TIMER_ABSTIME, &when, nullptr) != 0) {
      return sys_error("timer_settime");
    }
    return {};
  }

 private:
  Result<> make() {
    VOLT_TRY(listen_for_nudges());
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = deadline_signal();
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return sys_error("timer_create");
    maker_ = ::getpid();
    return {};
  }

  pid_t maker_ = 0;  // the process that made it, none yet
  timer_t timer_ = {};
};

thread_local ThreadTimer t_timer;

}  // namespace

Deadline Deadline::in_ms(std::uint64_t ms) {
  return {now_ns() + ms * 1'000'000};
}

bool Deadline::passed() const {
  return at_ns != kNever && now_ns() >= at_ns;
}

std::int64_t Deadline::left_ms() const {
  if (at_ns == kNever) return -1;
  const std::uint64_t now = now_ns();
  return now >= at_ns ? 0 : static_cast<std::int64_t>((at_ns - now) / 1'000'000 + 1);
}

int Deadline::poll_ms() const {
  constexpr std::int64_t kLookAgainMs = 200;
  const std::int64_t left = left_ms();
  return static_cast<int>(left < 0 ? kLookAgainMs : std::min(left, kLookAgainMs));
}

sigset_t stop_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int each : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, each);
  return signals;
}

void stop_on_signals() {
  handle(SIGINT, on_stop, 0);
  handle(SIGTERM, on_stop, 0);
  struct sigaction hangup = {};
  if (::sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {  // not nohup(1)
    handle(SIGHUP, on_stop, 0);
  }
}

bool stop_requested() {
  return g_stop.load(std::memory_order_relaxed) != 0;
}

int stop_signal() {
  const int signal = g_stop.load(std::memory_order_relaxed);
  return signal == 0 ? SIGINT : signal;
}

Result<> check_stop() {
  if (stop_requested() && !g_answered) return fail(Code::kInterrupted, "stopped by a signal");
  return {};
}

void stop_answered() {
  g_answered = true;
}

Result<Interruptible> Interruptible::arm(kvm_run& page, Deadline deadline) {
  t_running = &page;
  Interruptible armed(page);
  // The timer is left to fire: with nothing running its handler does nothing.
  if (deadline.at_ns != Deadline::kNever) VOLT_TRY(t_timer.set(deadline.at_ns));
  return armed;
}

Interruptible::Interruptible(Interruptible&& other) noexcept
    : page_(std::exchange(other.page_, nullptr)) {}

Interruptible::~Interruptible() {
  if (page_ == nullptr) return;
  t_running = nullptr;
  page_->immediate_exit = 0;
}

Result<> listen_for_nudges() {
  // A late one must not cut short what its thread does by then. KVM_RUN ends all the same.
  static const bool handled = handle(deadline_signal(), on_deadline, SA_RESTART);
  if (!handled) return fail(Code::kSystem, "sigaction SIGRTMIN failed");
  return {};
}

void nudge(pthread_t thread) {
  ::pthread_kill(thread, deadline_signal());
}

void shield_from_stop_signals() {
  const sigset_t signals = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

}  // namespace volt::vmm
