// Where the bytes of an image come from: the seam between whoever serves faults and whoever stores
// snapshots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/os/error.h"

namespace volt::uffd {

// Units of an image, counted from its start.
struct UnitRange {
  std::uint64_t first;
  std::uint64_t count;
};

enum class Priority {
  kPrefetch,
  kDemand,  // a guest waits; overtakes every prefetch
};

// Told about each unit that was asked for, once, on any thread, at any time, in any order. What
// comes for a unit that nobody waits for any more (it took too long, and was given up) is ignored.
class UnitSink {
 public:
  virtual ~UnitSink() = default;
  // `bytes` is the whole unit, and stays as it is until this returns.
  virtual void filled(std::uint64_t unit, std::span<const std::byte> bytes) = 0;
  // The unit cannot be had: the guests that need it stop. Zeros are never an answer. `why` names
  // the file and the place in it.
  virtual void failed(std::uint64_t unit, Error why) = 0;
};

class PageSource {
 public:
  virtual ~PageSource() = default;
  // May answer before it returns, or later; `done` outlives every answer, and every answer has been
  // given, or never will be, once the source is destroyed. Called from several threads at once, and
  // never with a lock of the asker held. Asking again with a higher priority moves a unit forward;
  // it is still answered once.
  // A thread that asks for a demand serves the faults of other clones, and watches how long they
  // wait: a source whose answers take long returns first and answers later.
  virtual void request(std::span<const UnitRange> units, Priority priority, UnitSink& done) = 0;
};

}  // namespace volt::uffd
