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

void on_sigbus(int signal, siginfo_t* info, void*) {
  if (t_landing == nullptr) {  // not ours: die of it as if there were no handler
    ::signal(signal, SIG_DFL);
    return;
  }
  t_fault_address = info->si_addr;
  siglongjmp(*t_landing, 1);
}

// SA_NODEFER because the handler leaves by siglongjmp, which does not restore the mask.
bool install_handler() {
  struct sigaction action = {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return ::sigaction(SIGBUS, &action, nullptr) == 0;
}

}  // namespace

Result<> run_guarded(void (*body)(void*), void* argument) {
  static const bool installed = install_handler();
  if (!installed) return fail(Code::kSystem, "sigaction SIGBUS failed");
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
