// One userfaultfd, typed: what the kernel says about each call is told apart, since its errno alone
// is ambiguous.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::uffd {

class Userfaultfd {
 public:
  // One that also sees faults the kernel takes on a guest's behalf, as KVM does. kHostUnable says
  // what this user lacks.
  static Result<Userfaultfd> open();
  // Takes over a descriptor made elsewhere.
  explicit Userfaultfd(Fd fd) : fd_(std::move(fd)) {}

  // First touches of pages of `range` that nothing backs become messages.
  Result<> register_missing(std::span<std::byte> range);

  enum class Copied {
    kAll,
    kSome,          // `bytes` are in; the rest must be asked for again
    kAlreadyThere,  // a page was there before
    kBusy,          // events wait to be read first
    kProcessGone,   // the address space is no more
  };
  struct CopyOutcome {
    Copied what;
    std::size_t bytes;
  };
  // Puts bytes into missing pages at `to`, atomically for each page.
  Result<CopyOutcome> copy(std::byte* to, std::span<const std::byte> from, bool wake_after);

  // Lets every thread that waits on a page of `range` look again.
  Result<> wake(std::span<std::byte> range);

  // Reads waiting messages, none if there are none; the descriptor does not block.
  Result<std::size_t> read_messages(std::span<uffd_msg> into);

  int fd() const { return fd_.get(); }

 private:
  Fd fd_;
};

}  // namespace volt::uffd
