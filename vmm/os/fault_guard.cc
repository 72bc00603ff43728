#include "vmm/os/fault_guard.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace volt {

struct PoisonNote {
  static void strike(PoisonWatch& watch) { watch.struck_ = true; }
};

namespace {

// The guarded access this thread is in, if any. Plain TLS, so the handler may read it.
thread_local sigjmp_buf* t_landing = nullptr;
thread_local void* t_fault_address = nullptr;
// The system call this thread is in that may meet a poisoned page, if any.
thread_local PoisonWatch* volatile t_watch = nullptr;

struct sigaction g_previous[2];  // what handled SIGBUS and SIGSEGV before us

void on_fault(int signal, siginfo_t* info, void* context) {
  const bool poison = signal == SIGBUS && info->si_code == BUS_MCEERR_AR;
  if (PoisonWatch* const watch = t_watch; poison && watch != nullptr) {
    return PoisonNote::strike(*watch);
  }
  if (t_landing == nullptr) {  // not ours: it happens again, to whoever was responsible before
    ::sigaction(signal, &g_previous[signal == SIGBUS ? 0 : 1], nullptr);
    return;
  }
  t_fault_address = info->si_addr;
  // This handler does not return, so nobody else puts back the mask it was entered with.
  ::pthread_sigmask(SIG_SETMASK, &static_cast<ucontext_t*>(context)->uc_sigmask, nullptr);
  siglongjmp(*t_landing, 1);
}

// A page that no longer exists raises SIGBUS; one that its pager has forbidden, SIGSEGV.
bool install_handlers() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  return ::sigaction(SIGBUS, &action, &g_previous[0]) == 0 &&
         ::sigaction(SIGSEGV, &action, &g_previous[1]) == 0;
}

bool handlers_installed() {
  static const bool installed = install_handlers();
  return installed;
}

// KVM's signal is not forced upon a thread that blocks it: such a thread would stay in the kernel,
// meeting the same page again and again.
bool let_signal_through() {
  sigset_t bus;
  ::sigemptyset(&bus);
  ::sigaddset(&bus, SIGBUS);
  return handlers_installed() && ::pthread_sigmask(SIG_UNBLOCK, &bus, nullptr) == 0;
}

}  // namespace

PoisonWatch::PoisonWatch() : outer_(t_watch) {
  thread_local const bool ready = let_signal_through();
  static_cast<void>(ready);  // without it the signal kills, as it would have anyway
  t_watch = this;
}

PoisonWatch::~PoisonWatch() {
  t_watch = outer_;
}

Result<> run_guarded(void (*body)(void*), void* argument) {
  if (!handlers_installed()) return fail(Code::kSystem, "sigaction SIGBUS or SIGSEGV failed");
  sigjmp_buf landing;
  sigjmp_buf* const outer = t_landing;
  if (sigsetjmp(landing, 0) != 0) {
    t_landing = outer;
    char text[96];
    std::snprintf(text, sizeof text, "a page of guest memory at host address %p cannot be had",
                  t_fault_address);
    return fail(Code::kPageLost, text);
  }
  t_landing = &landing;
  body(argument);
  t_landing = outer;
  return {};
}

Result<> guarded_copy(std::span<std::byte> to, std::span<const std::byte> from) {
  return guarded([&] { std::memcpy(to.data(), from.data(), from.size()); });
}

}  // namespace volt
