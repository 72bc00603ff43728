// CPU features by CPUID: what a guest was shown and must not lose.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/kvm_abi.h"

namespace volt::snapshot {

struct LostFeatures {
  std::string word;   // as in "cpuid 0x7.0 ebx"
  std::string names;  // as in "avx2, bit 24"
  std::uint32_t bits;
};

// The words of CPUID whose bits are features, where `host` lacks bits of `shown`. What else CPUID
// tells (sizes, counts, models) may differ.
std::vector<LostFeatures> lost_features(std::span<const kvm_cpuid_entry2> shown,
                                        std::span<const kvm_cpuid_entry2> host);

}  // namespace volt::snapshot
