// What people call the features of a CPU, as /proc/cpuinfo does.
#pragma once

#include <cstdint>
#include <string>

namespace volt::snapshot {

// A register that CPUID fills.
enum class CpuidRegister : std::uint8_t { kEax, kEbx, kEcx, kEdx };

// "avx2, bit 24": of the bits set in `bits`, by name where they have one.
std::string feature_names(std::uint32_t function, std::uint32_t index, CpuidRegister word,
                          std::uint32_t bits);

}  // namespace volt::snapshot
