#include "snapshot/cpu_features.h"

#include <algorithm>
#include <cstdio>

namespace volt::snapshot {
namespace {

struct FeatureWord {
  std::uint32_t function, index;
  std::uint32_t kvm_cpuid_entry2::* word;
  const char* name;
  std::uint32_t state = 0;  // bits of it that say what the guest has switched on
};

using Entry = kvm_cpuid_entry2;

constexpr FeatureWord kFeatureWords[] = {
    {1, 0, &Entry::ecx, "ecx", 1U << 27},  // OSXSAVE
    {1, 0, &Entry::edx, "edx"},           {7, 0, &Entry::ebx, "ebx"},
    {7, 0, &Entry::ecx, "ecx", 1U << 4},  // OSPKE
    {7, 0, &Entry::edx, "edx"},           {7, 1, &Entry::eax, "eax"},
    {7, 1, &Entry::edx, "edx"},           {7, 2, &Entry::edx, "edx"},
    {0xD, 0, &Entry::eax, "eax"},  // XCR0; EBX and ECX are sizes
    {0xD, 0, &Entry::edx, "edx"},         {0xD, 1, &Entry::eax, "eax"},
    {0xD, 1, &Entry::ecx, "ecx"},  // IA32_XSS
    {0xD, 1, &Entry::edx, "edx"},         {0x14, 0, &Entry::ebx, "ebx"},
    {0x14, 0, &Entry::ecx, "ecx"},        {0x4000'0001, 0, &Entry::eax, "eax"},  // KVM's own
    {0x8000'0001, 0, &Entry::ecx, "ecx"}, {0x8000'0001, 0, &Entry::edx, "edx"},
    {0x8000'0008, 0, &Entry::ebx, "ebx"}, {0x8000'0021, 0, &Entry::eax, "eax"},
};

std::uint32_t bits_of(std::span<const Entry> entries, const FeatureWord& word) {
  const auto at = std::ranges::find_if(entries, [&](const Entry& entry) {
    return entry.function == word.function && entry.index == word.index;
  });
  return at == entries.end() ? 0 : (*at).*word.word & ~word.state;
}

}  // namespace

std::vector<LostFeatures> lost_features(std::span<const kvm_cpuid_entry2> shown,
                                        std::span<const kvm_cpuid_entry2> host) {
  std::vector<LostFeatures> lost;
  for (const FeatureWord& word : kFeatureWords) {
    const std::uint32_t bits = bits_of(shown, word) & ~bits_of(host, word);
    if (bits == 0) continue;
    char name[48];
    std::snprintf(name, sizeof name, "cpuid 0x%x.%u %s", word.function, word.index, word.name);
    lost.push_back({name, bits});
  }
  return lost;
}

}  // namespace volt::snapshot
