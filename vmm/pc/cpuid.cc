#include "vmm/pc/cpuid.h"

#include <algorithm>
#include <bit>
#include <string>

namespace volt::pc {
namespace {

constexpr std::uint32_t bit(unsigned number) {
  return 1U << number;
}

// ---- Leaf 1
constexpr std::uint32_t kMonitor = bit(3);        // ECX
constexpr std::uint32_t kVmx = bit(5);            // ECX
constexpr std::uint32_t kTscDeadline = bit(24);   // ECX
constexpr std::uint32_t kHypervisor = bit(31);    // ECX
constexpr std::uint32_t kHyperThreads = bit(28);  // EDX: more than one logical CPU

// ---- KVM's features, leaf 0x40000001 EAX
constexpr std::uint32_t kAsyncPageFaults = bit(4) | bit(10) | bit(14);

constexpr std::uint32_t kSvm = bit(2);           // leaf 0x80000001 ECX
constexpr std::uint32_t kInvariantTsc = bit(8);  // leaf 0x80000007 EDX

// The most that "portable" lets through; what the host lacks is missing all the same.
struct Portable {
  std::uint32_t function, index;
  std::uint32_t eax, ebx, ecx, edx;
};
constexpr std::uint32_t kAll = 0xFFFF'FFFF;
constexpr Portable kPortableMasks[] = {
    // SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT deadline AES XSAVE OSXSAVE
    // AVX F16C RDRAND hypervisor; of EDX all that x86-64 began with
    {1, 0, kAll, kAll,
     bit(0) | bit(1) | bit(9) | bit(12) | bit(13) | bit(17) | bit(19) | bit(20) | bit(21) |
         bit(22) | bit(23) | bit(24) | bit(25) | bit(26) | bit(27) | bit(28) | bit(29) | bit(30) |
         bit(31),
     kAll},
    // FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP; no speculation controls
    // but SPEC_CTRL's kin, which kernels of both vendors look for
    {7, 0, 0,
     bit(0) | bit(1) | bit(3) | bit(5) | bit(7) | bit(8) | bit(9) | bit(10) | bit(18) | bit(19) |
         bit(20),
     0, bit(26) | bit(27) | bit(31)},
    {7, 1, 0, 0, 0, 0},
    {7, 2, 0, 0, 0, 0},
    {0xD, 0, 7, kAll, kAll, 0},          // x87, SSE, AVX
    {0xD, 1, bit(0) | bit(2), 0, 0, 0},  // XSAVEOPT, XGETBV with ECX = 1
    {0x8000'0001, 0, kAll, kAll,         // LAHF CMP_LEGACY CR8_LEGACY LZCNT SSE4A PREFETCHW
     bit(0) | bit(1) | bit(4) | bit(5) | bit(6) | bit(8), kAll},
    // what KVM of Linux 6.1 has: clocks, steal time, end of interrupt, halt, TLB flushes, IPIs,
    // polls
    {0x4000'0001, 0,
     bit(0) | bit(1) | bit(3) | bit(5) | bit(6) | bit(7) | bit(9) | bit(11) | bit(12) | bit(13) |
         bit(24),
     kAll, kAll, kAll},
    // IBPB IBRS STIBP SSBD
    {0x8000'0008, 0, kAll, bit(12) | bit(14) | bit(15) | bit(24), kAll, kAll},
    {0x8000'0021, 0, 0, 0, 0, 0},
};
constexpr std::uint32_t kPortableXsaveBytes = 832;  // of x87, SSE and AVX

void keep_portable(kvm_cpuid_entry2& entry) {
  for (const Portable& mask : kPortableMasks) {
    if (mask.function != entry.function || mask.index != entry.index) continue;
    entry.eax &= mask.eax;
    entry.ebx &= mask.ebx;
    entry.ecx &= mask.ecx;
    entry.edx &= mask.edx;
  }
  if (entry.function == 0xD && entry.index == 0) entry.ebx = entry.ecx = kPortableXsaveBytes;
}

bool wanted(const kvm_cpuid_entry2& entry, CpuTemplate which) {
  switch (entry.function) {
    case 0x0A:         // PMU
    case 0x12:         // SGX
    case 0x14:         // processor trace
    case 0x8000'000A:  // SVM
    case 0x8000'001F:  // memory encryption
    case 0x8000'0022:  // PMU
      return false;
    case 0x0D:
      return which == CpuTemplate::kHost || entry.index <= 2;
    case 0x1D:
    case 0x1E:  // tiles
      return which == CpuTemplate::kHost;
    default:
      return true;
  }
}

// One thread to a core, every core in one package.
void place(kvm_cpuid_entry2& entry, std::uint32_t id, std::uint32_t cpus) {
  const std::uint32_t id_bits = static_cast<std::uint32_t>(std::bit_width(cpus - 1));
  constexpr std::uint32_t kThreadLevel = 1 << 8;
  constexpr std::uint32_t kCoreLevel = 2 << 8;
  switch (entry.function) {
    case 1:
      entry.ebx = (entry.ebx & 0xFFFF) | (cpus << 16) | (id << 24);
      if (cpus > 1) entry.edx |= kHyperThreads;
      break;
    case 4:  // caches: who shares them, and how many cores there are
      entry.eax = (entry.eax & 0x3FFF) | ((std::bit_ceil(cpus) - 1) << 26);
      break;
    case 0x0B:
    case 0x1F:
      entry.eax = entry.index == 1 ? id_bits : 0;
      entry.ebx = entry.index == 0 ? 1 : entry.index == 1 ? cpus : 0;
      entry.ecx = entry.index | (entry.index == 0   ? kThreadLevel
                                 : entry.index == 1 ? kCoreLevel
                                                    : 0);
      entry.edx = id;
      break;
    case 0x8000'0008:
      entry.ecx = id_bits << 12 | (cpus - 1);
      break;
    case 0x8000'001D:
      entry.eax &= ~(0xFFFU << 14);
      break;
    case 0x8000'001E:
      entry.eax = id;
      entry.ebx = id & 0xFF;
      entry.ecx = 0;
      break;
    default:
      break;
  }
}

// No virtual machines inside: what KVM holds of them is in no snapshot.
void adapt(kvm_cpuid_entry2& entry) {
  switch (entry.function) {
    case 1:
      entry.ecx = (entry.ecx & ~(kMonitor | kVmx)) | kTscDeadline | kHypervisor;
      break;
    case 0x8000'0001:
      entry.ecx &= ~kSvm;
      break;
    case 0x4000'0001:
      entry.eax &= ~kAsyncPageFaults;
      break;
    case 0x8000'0007:
      entry.edx &= ~kInvariantTsc;
      break;
    default:
      break;
  }
}

}  // namespace

const char* cpu_template_name(CpuTemplate which) {
  switch (which) {
    case CpuTemplate::kHost:
      return "host";
    case CpuTemplate::kPortable:
      return "portable";
  }
  return "?";
}

Result<CpuTemplate> parse_cpu_template(std::string_view name) {
  for (const CpuTemplate each : {CpuTemplate::kHost, CpuTemplate::kPortable}) {
    if (name == cpu_template_name(each)) return each;
  }
  return fail(Code::kInvalid, "'" + std::string(name) + "' is no CPU template: host or portable");
}

std::vector<kvm_cpuid_entry2> cpuid_of(std::span<const kvm_cpuid_entry2> supported,
                                       CpuTemplate which, std::uint32_t id, std::uint32_t cpus) {
  std::vector<kvm_cpuid_entry2> entries;
  for (kvm_cpuid_entry2 entry : supported) {
    if (!wanted(entry, which)) continue;
    adapt(entry);
    if (which == CpuTemplate::kPortable) keep_portable(entry);
    place(entry, id, cpus);
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace volt::pc
