#include "vmm/pc/cpuid.h"

#include <gtest/gtest.h>

namespace volt::pc {
namespace {

kvm_cpuid_entry2 entry(std::uint32_t function, std::uint32_t index = 0) {
  return {.function = function, .index = index, .eax = ~0U, .ebx = ~0U, .ecx = ~0U, .edx = ~0U};
}

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& all, std::uint32_t function,
                             std::uint32_t index = 0) {
  for (const kvm_cpuid_entry2& each : all) {
    if (each.function == function && each.index == index) return &each;
  }
  return nullptr;
}

const std::vector<kvm_cpuid_entry2> kEverything = {
    entry(0),          entry(1),          entry(4),          entry(7),          entry(7, 1),
    entry(0xA),        entry(0xB),        entry(0xB, 1),     entry(0xD),        entry(0xD, 1),
    entry(0xD, 2),     entry(0xD, 9),     entry(0x1D),       entry(0x40000001), entry(0x80000001),
    entry(0x80000007), entry(0x80000008), entry(0x8000000A), entry(0x8000001E), entry(0x8000001F),
    entry(0x80000021)};

TEST(CpuidTest, EachCpuIsItself) {
  for (const std::uint32_t id : {0u, 3u, 15u}) {
    const auto cpu = cpuid_of(kEverything, CpuTemplate::kHost, id, 16);
    EXPECT_EQ(find(cpu, 1)->ebx >> 24, id);
    EXPECT_EQ(find(cpu, 1)->ebx >> 16 & 0xFF, 16u);
    EXPECT_EQ(find(cpu, 0xB)->edx, id);
    EXPECT_EQ(find(cpu, 0xB, 1)->eax, 4u) << "bits of the id that tell cores apart";
    EXPECT_EQ(find(cpu, 0xB, 1)->ebx, 16u);
    EXPECT_EQ(find(cpu, 0x8000001E)->eax, id);
  }
}

TEST(CpuidTest, TheGuestPrefersAClockThatSurvives) {
  for (const CpuTemplate which : {CpuTemplate::kHost, CpuTemplate::kPortable}) {
    const auto cpu = cpuid_of(kEverything, which, 0, 1);
    EXPECT_EQ(find(cpu, 0x80000007)->edx & 1U << 8, 0u) << "the TSC is not invariant";
    EXPECT_NE(find(cpu, 1)->ecx & 1U << 24, 0u) << "but times the next interrupt";
    EXPECT_NE(find(cpu, 1)->ecx & 1U << 31, 0u) << "there is a hypervisor, with its clock";
    EXPECT_EQ(find(cpu, 0x40000001)->eax & (1U << 4 | 1U << 10 | 1U << 14), 0u)
        << "asynchronous page faults";
    EXPECT_NE(find(cpu, 0x40000001)->eax & 1U << 3, 0u) << "kvm-clock";
    EXPECT_EQ(find(cpu, 0xA), nullptr);
    EXPECT_EQ(find(cpu, 0x8000001F), nullptr);
  }
}

TEST(CpuidTest, PortableHasNothingThatOnlyNewHostsHave) {
  const auto cpu = cpuid_of(kEverything, CpuTemplate::kPortable, 0, 1);
  EXPECT_NE(find(cpu, 7)->ebx & 1U << 5, 0u) << "AVX2";
  EXPECT_EQ(find(cpu, 7)->ebx & 1U << 16, 0u) << "AVX-512";
  EXPECT_EQ(find(cpu, 0xD)->eax, 7u);
  EXPECT_EQ(find(cpu, 0xD, 9), nullptr);
  EXPECT_EQ(find(cpu, 0x1D), nullptr);
  EXPECT_NE(find(cpuid_of(kEverything, CpuTemplate::kHost, 0, 1), 0xD, 9), nullptr);
}

TEST(CpuidTest, PortableSizesAreThoseOfWhatItHas) {
  const auto cpu = cpuid_of(kEverything, CpuTemplate::kPortable, 0, 1);
  EXPECT_EQ(find(cpu, 0xD)->ebx, 832u);
  EXPECT_EQ(find(cpu, 0xD)->ecx, 832u);
  EXPECT_EQ(find(cpu, 0x80000008)->ebx & 1U, 0u) << "CLZERO";
  EXPECT_EQ(find(cpu, 0x80000021)->eax, 0u);
}

TEST(CpuidTest, NobodyRunsVirtualMachinesInside) {
  for (const CpuTemplate which : {CpuTemplate::kHost, CpuTemplate::kPortable}) {
    const auto cpu = cpuid_of(kEverything, which, 0, 1);
    EXPECT_EQ(find(cpu, 1)->ecx & 1U << 5, 0u) << "VMX";
    EXPECT_EQ(find(cpu, 0x80000001)->ecx & 1U << 2, 0u) << "SVM";
    EXPECT_EQ(find(cpu, 0x8000000A), nullptr);
  }
}

TEST(CpuidTest, TemplatesHaveNames) {
  for (const CpuTemplate which : {CpuTemplate::kHost, CpuTemplate::kPortable}) {
    EXPECT_EQ(parse_cpu_template(cpu_template_name(which)).value(), which);
  }
  EXPECT_FALSE(parse_cpu_template("T2S"));
}

}  // namespace
}  // namespace volt::pc
