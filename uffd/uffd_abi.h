// What linux/userfaultfd.h of Debian 12 (6.1) does not name yet. Whether the running kernel has it
// is asked of UFFDIO_API, never assumed.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace volt::uffd::abi {

// 6.6: pages that raise SIGBUS (BUS_MCEERR_AR) when touched; system calls get EHWPOISON or EFAULT.
inline constexpr std::uint64_t kFeaturePoison = 1 << 14;

struct Poison {
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;  // written by the kernel: bytes, or a negated errno
};
static_assert(sizeof(Poison) == 32);

inline constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, Poison);
inline constexpr std::uint64_t kPoisonDontWake = 1 << 0;

}  // namespace volt::uffd::abi
