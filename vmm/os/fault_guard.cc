#include "vmm/os/fault_guard.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace volt {
namespace {

// The guarded access this thread is in, if any. Plain TLS, so the handler may read it.
thread_local sigjmp_buf* t_landing = nullptr;
thread_local void* t_fault_address = nullptr;

struct sigaction g_previous[2];  // what handled SIGBUS and SIGSEGV before us

void on_fault(int signal, siginfo_t* info, void* context) {
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

}  // namespace

Result<> run_guarded(void (*body)(void*), void* argument) {
  static const bool installed = install_handlers();
  if (!installed) return fail(Code::kSystem, "sigaction SIGBUS or SIGSEGV failed");
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
