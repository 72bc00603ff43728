// Hosts that lack something: said by name before anything is tried.
#include "snapshot/compatibility.h"

#include <gtest/gtest.h>

#include "formats/head.h"
#include "snapshot/cpu_features.h"
#include "tests/snapshot/fixture.h"
#include "vmm/agent_abi.h"

namespace volt::test {
namespace {

using snapshot::compare;
using snapshot::Difference;

constexpr std::uint32_t kNoCapability = 9'999;
constexpr std::uint32_t kNoMsr = 0x1234'5678;

class CompatibilityTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    capture(*boot_echo(), "any");
    capture(*boot_exact_guest(kvm()), "exact");
  }

  snapshot::OpenedSnapshot open(std::string_view name) const {
    return must(snapshot::OpenedSnapshot::open(store(), named(name)));
  }

  // The manifest or the state, changed, does not suit this host; the error and the first
  // difference say what is missing.
  template <typename Change>
  void expect_refused(std::string_view name, std::string_view field, std::string_view value,
                      const Change& change) const {
    const snapshot::OpenedSnapshot snapshot = open(name);
    formats::Manifest manifest = snapshot.manifest();
    formats::MachineState state = snapshot.state();
    change(*manifest.mutable_compatibility(), state);
    const Error error = must_fail(snapshot::require_compatible(manifest, state, kvm()));
    EXPECT_EQ(error.code, Code::kUnsupported);
    EXPECT_TRUE(contains(error.context, field)) << error.context;
    EXPECT_TRUE(contains(error.context, value)) << error.context;
    const std::vector<Difference> differences = must(compare(manifest, state, kvm()));
    ASSERT_FALSE(differences.empty());
    EXPECT_TRUE(contains(differences[0].field, field)) << differences[0].field;
    EXPECT_TRUE(contains(differences[0].snapshot, value)) << differences[0].snapshot;
    EXPECT_TRUE(differences[0].prevents);
  }

  bool suits(std::string_view name, void (*change)(formats::v1::Compatibility&)) const {
    const snapshot::OpenedSnapshot snapshot = open(name);
    formats::Manifest manifest = snapshot.manifest();
    change(*manifest.mutable_compatibility());
    return snapshot::require_compatible(manifest, snapshot.state(), kvm()).has_value();
  }
};

using Needs = formats::v1::Compatibility;

TEST_F(CompatibilityTest, AHostSuitsItsOwnSnapshotsAndDiffersInNothing) {
  for (const char* name : {"any", "exact"}) {
    const snapshot::OpenedSnapshot snapshot = open(name);
    expect_ok(snapshot::require_compatible(snapshot.manifest(), snapshot.state(), kvm()));
    EXPECT_TRUE(must(compare(snapshot.manifest(), snapshot.state(), kvm())).empty());
  }
  EXPECT_FALSE(open("any").manifest().compatibility().exact_state());
  EXPECT_TRUE(open("exact").manifest().compatibility().exact_state());
  EXPECT_GT(open("exact").manifest().compatibility().msrs_size(), 0);
}

TEST_F(CompatibilityTest, ACpuFeatureThatIsAbsentIsNamed) {
  expect_refused("any", "cpu feature", "warp-drive",
                 [](Needs& needs, auto&) { needs.add_cpu_features("warp-drive"); });
}

TEST_F(CompatibilityTest, AKvmCapabilityThatIsAbsentIsNamed) {
  expect_refused("any", "kvm capability", std::to_string(kNoCapability),
                 [](Needs& needs, auto&) { needs.add_kvm_capabilities(kNoCapability); });
}

TEST_F(CompatibilityTest, APcNamesWhatItIsBuiltWith) {
  formats::MachineState state = open("exact").state();
  const auto plain = snapshot::describe_host(state, 1);
  state.mutable_pc();
  formats::Manifest manifest = open("exact").manifest();
  *manifest.mutable_compatibility() = snapshot::describe_host(state, 1);
  EXPECT_EQ(manifest.compatibility().kvm_capabilities_size(), plain.kvm_capabilities_size() + 4);
  expect_ok(formats::check(manifest));
}

TEST_F(CompatibilityTest, AnAgentOfAnotherVoltIsNamedAndOneThatWasNotWrittenDownIsNot) {
  const snapshot::OpenedSnapshot exact = open("exact");
  formats::Manifest manifest = exact.manifest();
  for (const std::uint32_t good : {0U, agent_abi::kVersion}) {
    manifest.mutable_guest()->set_agent_protocol(good);
    EXPECT_TRUE(must(compare(manifest, exact.state(), kvm())).empty());
  }
  manifest.mutable_guest()->set_agent_protocol(agent_abi::kVersion + 1);
  const Error error = must_fail(snapshot::require_compatible(manifest, exact.state(), kvm()));
  EXPECT_EQ(error.code, Code::kUnsupported);
  EXPECT_TRUE(contains(error.context, "agent protocol")) << error.context;
}

TEST_F(CompatibilityTest, AnMsrThatIsAbsentIsNamedWhereTheExactStateIsNeeded) {
  expect_refused("exact", "msr", "0x12345678", [](Needs& needs, auto&) {
    needs.clear_msrs();
    needs.add_msrs(kNoMsr);
  });
}

TEST_F(CompatibilityTest, ACpuidFeatureThatTheGuestWasShownAndIsAbsentIsNamed) {
  expect_refused("exact", "cpuid 0x1.0 ecx", "needs bit 16 (0x10000)", [](Needs&, auto& state) {
    state.mutable_vcpus(0)->clear_cpuid();
    auto* const leaf = state.mutable_vcpus(0)->add_cpuid();
    leaf->set_function(1);
    leaf->set_ecx(1U << 16);  // a bit that was never given out
  });
}

// By words, since a host can lack each; sizes and counts are no features.
TEST(CpuFeaturesTest, OnlyBitsOfFeaturesAreLost) {
  using snapshot::lost_features;
  const kvm_cpuid_entry2 shown[] = {
      {.function = 1, .ecx = 1U << 27 | 1U, .edx = 2},          // OSXSAVE is a state
      {.function = 7, .index = 1, .eax = 1U << 5},              // AVX512_BF16
      {.function = 0xD, .eax = 7, .ebx = 0x340, .ecx = 0x340},  // sizes
      {.function = 0xD, .index = 1, .eax = 2},
      {.function = 0x4000'0001, .eax = 8},
      {.function = 0x8000'0008, .eax = 0x3030, .ebx = 1, .ecx = 15},  // CLZERO; 16 cores
      {.function = 0x8000'0021, .eax = 1U << 8}};
  EXPECT_TRUE(lost_features(shown, shown).empty());
  std::vector<kvm_cpuid_entry2> host(std::begin(shown), std::end(shown));
  host[0].ecx = 1;
  host[2].ebx = host[2].ecx = 0xA88;
  host[5].eax = host[5].ecx = 0;
  EXPECT_TRUE(lost_features(shown, host).empty());
  host[0].edx = host[1].eax = host[2].eax = host[3].eax = host[4].eax = host[5].ebx = 0;
  host.pop_back();
  std::vector<std::string> words, names;
  for (const auto& lost : lost_features(shown, host)) {
    words.push_back(lost.word);
    names.push_back(lost.names);
  }
  EXPECT_EQ(words,
            (std::vector<std::string>{"cpuid 0x1.0 edx", "cpuid 0x7.1 eax", "cpuid 0xd.0 eax",
                                      "cpuid 0xd.1 eax", "cpuid 0x40000001.0 eax",
                                      "cpuid 0x80000008.0 ebx", "cpuid 0x80000021.0 eax"}));
  EXPECT_EQ(names, (std::vector<std::string>{"bit 1", "avx512_bf16", "bit 0, bit 1, state of avx",
                                             "xsavec", "kvm clock 2", "clzero", "bit 8"}));
}

TEST_F(CompatibilityTest, AnotherVendorPreventsOnlyAGuestThatNeedsItsExactState) {
  expect_refused("exact", "cpu vendor", "ImaginaryCpu",
                 [](Needs& needs, auto&) { needs.set_cpu_vendor("ImaginaryCpu"); });
  expect_refused("exact", "kvm vendor", "kvm_imaginary",
                 [](Needs& needs, auto&) { needs.set_kvm_vendor("kvm_imaginary"); });
  EXPECT_TRUE(suits("any", [](Needs& needs) { needs.set_cpu_vendor("ImaginaryCpu"); }));
  EXPECT_TRUE(suits("any", [](Needs& needs) { needs.set_kvm_vendor("kvm_imaginary"); }));
}

TEST_F(CompatibilityTest, AnotherKernelOrSteppingIsListedAndPreventsNothing) {
  const snapshot::OpenedSnapshot snapshot = open("exact");
  formats::Manifest manifest = snapshot.manifest();
  manifest.mutable_compatibility()->set_kernel_release("2.6.32");
  manifest.mutable_compatibility()->set_cpu_signature(0x1234);
  expect_ok(snapshot::require_compatible(manifest, snapshot.state(), kvm()));
  const auto differences = must(compare(manifest, snapshot.state(), kvm()));
  ASSERT_EQ(differences.size(), 2U);
  EXPECT_FALSE(differences[0].prevents);
  EXPECT_EQ(differences[1].snapshot, "2.6.32");
}

// A frequency that differs by more than clocks are corrected for must be scaled, or prevents it.
TEST_F(CompatibilityTest, AnotherTscIsNamedForAGuestThatCountsWithIt) {
  const snapshot::OpenedSnapshot snapshot = open("exact");
  formats::Manifest manifest = snapshot.manifest();
  Needs& needs = *manifest.mutable_compatibility();
  const std::uint64_t khz = needs.tsc_khz();
  needs.set_tsc_khz(khz + khz / 1000);
  EXPECT_TRUE(must(compare(manifest, snapshot.state(), kvm())).empty()) << "it has no clock";

  formats::MachineState counts = snapshot.state();
  counts.mutable_pc();
  counts.mutable_vcpus(0)->clear_cpuid();  // which was not a PC's
  const std::vector<Difference> differences = must(compare(manifest, counts, kvm()));
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].field, "tsc khz");
  EXPECT_EQ(differences[0].snapshot, std::to_string(khz + khz / 1000));
  EXPECT_EQ(differences[0].prevents, must(kvm().check_extension(KVM_CAP_TSC_CONTROL)) == 0);
  needs.set_tsc_khz(khz + khz / 10'000);
  EXPECT_TRUE(must(compare(manifest, counts, kvm())).empty());
}

TEST_F(CompatibilityTest, WhatPreventsARestoreIsListedBeforeWhatDoesNot) {
  expect_refused("any", "kvm capability", std::to_string(kNoCapability), [](Needs& needs, auto&) {
    needs.set_kernel_release("2.6.32");
    needs.set_cpu_vendor("ImaginaryCpu");
    needs.add_kvm_capabilities(kNoCapability);
  });
}

TEST_F(CompatibilityTest, ARestoreIsRefusedBeforeAnyVmIsMade) {
  formats::Manifest manifest = open("any").manifest();
  manifest.mutable_compatibility()->add_kvm_capabilities(kNoCapability);
  write_file(file("any", "manifest"), formats::encode(manifest));
  const Error error = must_fail(try_restore("any"));
  EXPECT_EQ(error.code, Code::kUnsupported);
  EXPECT_TRUE(contains(error.context, std::to_string(kNoCapability))) << error.context;
}

TEST_F(CompatibilityTest, ARequiredFeatureThisBuildDoesNotKnowIsNamed) {
  formats::Manifest manifest = open("any").manifest();
  manifest.add_required_features("packed-memory");
  const std::string body = manifest.SerializeAsString();
  write_file(file("any", "manifest"),
             formats::seal(formats::FileKind::kManifest, std::as_bytes(std::span(body))));
  const Error error = must_fail(try_restore("any"));
  EXPECT_EQ(error.code, Code::kUnsupported);
  EXPECT_TRUE(contains(error.context, "manifest: required_features[0]: packed-memory"))
      << error.context;
}

}  // namespace
}  // namespace volt::test
