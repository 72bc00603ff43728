// One userfaultfd, typed: what the kernel says about each call is told apart, since its errno alone
// is ambiguous.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "uffd/uffd_abi.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::uffd {

inline constexpr std::uint64_t kPageBytes = 4096;

class Userfaultfd {
 public:
  // One that also sees faults the kernel takes on a guest's behalf, as KVM does, with `features`
  // (UFFD_FEATURE_*) switched on. kHostUnable says what this user lacks.
  static Result<Userfaultfd> open(std::uint64_t features = 0);
  // Takes over a descriptor made elsewhere.
  explicit Userfaultfd(Fd fd) : fd_(std::move(fd)) {}
  // The same for one that a stranger sent: kInvalid if it is something else.
  static Result<Userfaultfd> adopt(Fd fd);
  // Another descriptor of the same.
  Result<Userfaultfd> duplicate() const;

  // Every UFFD_FEATURE_* of this kernel; unknown (0) for a descriptor made elsewhere.
  std::uint64_t offered() const { return offered_; }

  // First touches of pages of `range` that nothing backs become messages.
  Result<> register_missing(std::span<std::byte> range);
  // So do first touches of pages that the file behind `range` has, and this mapping has not.
  Result<> register_missing_and_minor(std::span<std::byte> range);

  enum class Did {
    kAll,
    kSome,          // `bytes` are done; the rest must be asked for again
    kAlreadyThere,  // a page was there before
    kNoSuchRange,   // not one mapping, or none that is registered
    kBusy,          // events wait to be read first
    kProcessGone,   // the address space is no more
  };
  struct Outcome {
    Did what;
    std::size_t bytes;
  };
  enum class Wake { kNo, kYes };  // whether threads that wait on what was done look again

  // Puts bytes into missing pages at `to`, atomically for each page.
  Result<Outcome> copy(std::byte* to, std::span<const std::byte> from, Wake wake);
  // Maps what the file behind `range` holds.
  Result<Outcome> resume(std::span<std::byte> range, Wake wake);
  Result<Outcome> zero(std::span<std::byte> range, Wake wake);
  // Whoever touches `range` from now on gets SIGBUS, or EFAULT within a system call.
  Result<Outcome> poison(std::span<std::byte> range, Wake wake);

  // Lets every thread that waits on a page of `range` look again.
  Result<> wake(std::span<std::byte> range);

  // Reads waiting messages, none if there are none; the descriptor does not block.
  Result<std::size_t> read_messages(std::span<uffd_msg> into);

  int fd() const { return fd_.get(); }

 private:
  Result<> register_for(std::span<std::byte> range, std::uint64_t mode);

  Fd fd_;
  std::uint64_t offered_ = 0;
};

}  // namespace volt::uffd
