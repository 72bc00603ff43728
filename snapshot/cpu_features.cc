#include "snapshot/cpu_features.h"

#include <algorithm>
#include <cstdio>

#include "snapshot/cpu_feature_names.h"

namespace volt::snapshot {
namespace {

using Entry = kvm_cpuid_entry2;
using enum CpuidRegister;

struct FeatureWord {
  std::uint32_t function, index;
  CpuidRegister word;
  std::uint32_t state = 0;  // bits of it that say what the guest has switched on
};

constexpr FeatureWord kFeatureWords[] = {
    {1, 0, kEcx, 1U << 27},                                                 // OSXSAVE
    {1, 0, kEdx},           {7, 0, kEbx},           {7, 0, kEcx, 1U << 4},  // OSPKE
    {7, 0, kEdx},           {7, 1, kEax},           {7, 1, kEdx},
    {7, 2, kEdx},           {0xD, 0, kEax},                          // XCR0; EBX and ECX are sizes
    {0xD, 0, kEdx},         {0xD, 1, kEax},         {0xD, 1, kEcx},  // IA32_XSS
    {0xD, 1, kEdx},         {0x14, 0, kEbx},        {0x14, 0, kEcx},
    {0x4000'0001, 0, kEax},  // KVM's own
    {0x8000'0001, 0, kEcx}, {0x8000'0001, 0, kEdx}, {0x8000'0008, 0, kEbx},
    {0x8000'0021, 0, kEax},
};

std::uint32_t word_of(const Entry& entry, CpuidRegister word) {
  switch (word) {
    case kEax:
      return entry.eax;
    case kEbx:
      return entry.ebx;
    case kEcx:
      return entry.ecx;
    case kEdx:
      return entry.edx;
  }
  return 0;
}

const char* name_of(CpuidRegister word) {
  static constexpr const char* kRegisterNames[] = {"eax", "ebx", "ecx", "edx"};
  return kRegisterNames[static_cast<std::size_t>(word)];
}

std::uint32_t bits_of(std::span<const Entry> entries, const FeatureWord& word) {
  const auto at = std::ranges::find_if(entries, [&](const Entry& entry) {
    return entry.function == word.function && entry.index == word.index;
  });
  return at == entries.end() ? 0 : word_of(*at, word.word) & ~word.state;
}

}  // namespace

std::vector<LostFeatures> lost_features(std::span<const kvm_cpuid_entry2> shown,
                                        std::span<const kvm_cpuid_entry2> host) {
  std::vector<LostFeatures> lost;
  for (const FeatureWord& word : kFeatureWords) {
    const std::uint32_t bits = bits_of(shown, word) & ~bits_of(host, word);
    if (bits == 0) continue;
    char name[48];
    std::snprintf(name, sizeof name, "cpuid 0x%x.%u %s", word.function, word.index,
                  name_of(word.word));
    lost.push_back({name, feature_names(word.function, word.index, word.word, bits), bits});
  }
  return lost;
}

}  // namespace volt::snapshot
