#include "vmm/file_lock.h"

#include <sys/file.h>
#include <time.h>

#include <cerrno>

#include "vmm/interrupt.h"

namespace volt::vmm {
namespace {

constexpr int kTries = 250;
constexpr long kPauseNs = 2'000'000;

}  // namespace

Result<bool> lock_soon(const Fd& file, int operation) {
  for (int tries = 0; tries < kTries; ++tries) {
    if (::flock(file.get(), operation | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK && errno != EINTR) return sys_error("flock");
    VOLT_TRY(check_stop());
    const timespec pause = {.tv_sec = 0, .tv_nsec = kPauseNs};
    ::nanosleep(&pause, nullptr);
  }
  return false;
}

}  // namespace volt::vmm
