// The guest's own clock: the host's time when it let the guest go, plus TSC cycles since. No clock
// state of the hypervisor is involved, so none has to be saved or restored.
#pragma once

#include <cstdint>

#include "vmm/guest_abi.h"

namespace volt::guest {

class Clock {
 public:
  // `tsc` is the counter now, read as close to the start as can be.
  void anchor(std::uint64_t tsc, const guest_abi::Identity& identity);

  std::uint64_t wall_ns(std::uint64_t tsc) const { return wall_ns_ + elapsed_ns(tsc); }
  std::uint64_t mono_ns(std::uint64_t tsc) const { return mono_ns_ + elapsed_ns(tsc); }

 private:
  std::uint64_t elapsed_ns(std::uint64_t tsc) const;

  std::uint64_t tsc_;
  std::uint64_t wall_ns_;
  std::uint64_t mono_ns_;
  std::uint64_t ns_per_cycle_;  // times 2^32
};

}  // namespace volt::guest
