// What a clone tells its pager about itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "vmm/os/error.h"

namespace volt::uffd {

// A part of a clone's memory that shows a part of the image. Both multiples of the unit. The
// address is that of the clone's own process.
struct View {
  std::span<std::byte> host;
  std::uint64_t image_offset;
};

// What is done to a range that cannot be had.
enum class LostPages {
  kPoison,  // UFFDIO_POISON (Linux 6.6): works on any process's memory. KVM sends SIGBUS
  kForbid,  // PROT_NONE: only on memory of this process. KVM_RUN says EFAULT
};

struct CloneOptions {
  enum class Kind {
    // A private mapping of the image, registered MISSING: finds what others brought in without a
    // fault, so all such clones of an image are of one trust domain.
    kShared,
    // The same, registered MISSING | MINOR: sees a page only when the server says so.
    kIsolated,
    // As isolated, but gets single pages, and every first touch is written down.
    kRecording,
    // Any memory registered MISSING that has nothing to do with the image: gets copies.
    kForeign,
  };
  enum class Home { kThisProcess, kAnotherProcess };

  Kind kind = Kind::kShared;
  Home home = Home::kThisProcess;
  // kRecording: pages that are written down at most; what is touched after them comes in units.
  std::size_t recorded_pages_max = 0;
  // For memory of another process where the kernel cannot poison: called without any lock, on any
  // thread. Whoever owns the memory makes the unit's range inaccessible, then wakes it. kNoUnit: a
  // page outside every view, which its owner should not have registered. A call may be under way
  // while forget() returns.
  std::function<void(std::uint64_t unit)> on_lost = {};
  // Told of a unit that this clone waits for and cannot have, before the clone is stopped for it;
  // without any lock, on any thread, as often as it is asked for.
  std::function<void(std::uint64_t unit, const Error& why)> on_failing = {};
};

inline constexpr std::uint64_t kNoUnit = UINT64_MAX;

// First touches, in order.
struct Recording {
  struct Touch {
    std::uint64_t image_offset;  // of the page
    bool write;                  // whether the first touch was one
    bool operator==(const Touch&) const = default;
  };
  std::vector<Touch> touches;
  bool complete = true;  // false: more pages were touched than could be written down
};

}  // namespace volt::uffd
