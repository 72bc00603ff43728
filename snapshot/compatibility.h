// Whether this host can restore a snapshot: asked before anything is tried, answered by name.
#pragma once

#include <string>
#include <vector>

#include "formats/machine_state.h"
#include "formats/manifest.h"
#include "vmm/kvm.h"

namespace volt::snapshot {

// This host, as the record of a snapshot with that state.
formats::v1::Compatibility describe_host(const formats::MachineState& state, std::uint64_t tsc_khz);

// One thing that differs. Those that `prevents` a restore come first.
struct Difference {
  std::string field;
  std::string snapshot;
  std::string host;
  bool prevents;
};

// A guest with a resume entry needs only CPU features that it names. One that goes on exactly where
// it stopped also needs the same CPU vendor and every CPUID feature it was shown; a PC, besides,
// the frequency of its TSC, by itself or scaled.
Result<std::vector<Difference>> compare(const formats::Manifest& manifest,
                                        const formats::MachineState& state, const vmm::Kvm& kvm);

// kUnsupported naming the first difference that prevents a restore. On the way of every restore:
// for a guest with a resume entry it asks neither the kernel nor the CPU anything, and the TSC's
// frequency is left to the VM that is made anyway (Pc::match_tsc).
Result<> require_compatible(const formats::Manifest& manifest, const formats::MachineState& state,
                            const vmm::Kvm& kvm);

}  // namespace volt::snapshot
