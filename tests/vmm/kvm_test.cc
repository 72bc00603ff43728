// The ioctl wrappers: that each reports what the kernel said, and that the kernel is asked by the
// right number.
#include "vmm/kvm.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/kvm_fixture.h"

namespace volt::vmm {
namespace {

// An Fd that owns nothing, so that every call on it is EBADF.
Kvm bad_kvm() {
  return {Fd{-1}, sizeof(kvm_run)};
}
Vm bad_vm() {
  return {Fd{-1}, sizeof(kvm_run)};
}
Vcpu bad_vcpu() {
  return {Fd{-1}, Mapping::create(sizeof(kvm_run), PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "kvm_run")
                      .value()};
}

struct BadCall {
  std::string name;  // of the ioctl, as the error should say it
  std::function<Error()> call;
};

// A call that succeeds on a bad descriptor shows as an error with no errno.
template <typename R>
Error error_of(const R& result) {
  return result ? Error{Code::kInvalid, 0, "it succeeded"} : result.error();
}

std::vector<BadCall> system_and_vm_calls() {
  return {
      {"KVM_CHECK_EXTENSION", [] { return error_of(bad_kvm().check_extension(1)); }},
      {"KVM_CREATE_VM", [] { return error_of(bad_kvm().create_vm()); }},
      {"KVM_GET_SUPPORTED_CPUID", [] { return error_of(bad_kvm().get_supported_cpuid()); }},
      {"KVM_GET_MSR_INDEX_LIST", [] { return error_of(bad_kvm().get_msr_index_list()); }},
      {"KVM_SET_USER_MEMORY_REGION",
       [] { return error_of(bad_vm().set_user_memory_region(0, 0, {})); }},
      {"KVM_CREATE_VCPU", [] { return error_of(bad_vm().create_vcpu(0)); }},
      {"KVM_ENABLE_CAP", [] { return error_of(bad_vm().enable_cap(1, 0)); }},
      {"KVM_GET_TSC_KHZ", [] { return error_of(bad_vm().get_tsc_khz()); }},
      {"KVM_IOEVENTFD", [] { return error_of(bad_vm().ioeventfd(1, Fd{-1})); }},
      {"KVM_RUN", [] { return error_of(bad_vcpu().run()); }},
  };
}

std::vector<BadCall> calls_for_kernels() {
  return {
      {"KVM_SET_TSS_ADDR", [] { return error_of(bad_vm().set_tss_addr(0)); }},
      {"KVM_SET_IDENTITY_MAP_ADDR", [] { return error_of(bad_vm().set_identity_map_addr(0)); }},
      {"KVM_CREATE_IRQCHIP", [] { return error_of(bad_vm().create_irqchip()); }},
      {"KVM_GET_IRQCHIP", [] { return error_of(bad_vm().get_irqchip(0)); }},
      {"KVM_SET_IRQCHIP", [] { return error_of(bad_vm().set_irqchip({})); }},
      {"KVM_SET_GSI_ROUTING", [] { return error_of(bad_vm().set_gsi_routing({})); }},
      {"KVM_IRQFD", [] { return error_of(bad_vm().irqfd(1, Fd{-1})); }},
      {"KVM_GET_CLOCK", [] { return error_of(bad_vm().get_clock()); }},
      {"KVM_SET_CLOCK", [] { return error_of(bad_vm().set_clock({})); }},
      {"KVM_GET_LAPIC", [] { return error_of(bad_vcpu().get_lapic()); }},
      {"KVM_SET_LAPIC", [] { return error_of(bad_vcpu().set_lapic({})); }},
      {"KVM_SET_TSC_KHZ", [] { return error_of(bad_vcpu().set_tsc_khz(1)); }},
  };
}

std::vector<BadCall> register_reads() {
  return {
      {"KVM_GET_REGS", [] { return error_of(bad_vcpu().get_regs()); }},
      {"KVM_GET_SREGS", [] { return error_of(bad_vcpu().get_sregs()); }},
      {"KVM_GET_XSAVE", [] { return error_of(bad_vcpu().get_xsave(4096)); }},
      {"KVM_GET_XSAVE", [] { return error_of(bad_vcpu().get_xsave(8192)); }},
      {"KVM_GET_XCRS", [] { return error_of(bad_vcpu().get_xcrs()); }},
      {"KVM_GET_DEBUGREGS", [] { return error_of(bad_vcpu().get_debugregs()); }},
      {"KVM_GET_VCPU_EVENTS", [] { return error_of(bad_vcpu().get_vcpu_events()); }},
      {"KVM_GET_MP_STATE", [] { return error_of(bad_vcpu().get_mp_state()); }},
      {"KVM_GET_CPUID2", [] { return error_of(bad_vcpu().get_cpuid2()); }},
      {"KVM_GET_MSRS",
       [] {
         kvm_msr_entry msrs[1] = {};
         return error_of(bad_vcpu().get_msrs(msrs));
       }},
  };
}

std::vector<BadCall> register_writes() {
  static constexpr std::byte kArea[4096] = {};
  return {
      {"KVM_SET_REGS", [] { return error_of(bad_vcpu().set_regs({})); }},
      {"KVM_SET_SREGS", [] { return error_of(bad_vcpu().set_sregs({})); }},
      {"KVM_SET_XSAVE", [] { return error_of(bad_vcpu().set_xsave(kArea)); }},
      {"KVM_SET_XCRS", [] { return error_of(bad_vcpu().set_xcrs({})); }},
      {"KVM_SET_DEBUGREGS", [] { return error_of(bad_vcpu().set_debugregs({})); }},
      {"KVM_SET_VCPU_EVENTS", [] { return error_of(bad_vcpu().set_vcpu_events({})); }},
      {"KVM_SET_MP_STATE", [] { return error_of(bad_vcpu().set_mp_state({})); }},
      {"KVM_SET_MSRS", [] { return error_of(bad_vcpu().set_msrs({})); }},
      {"KVM_SET_CPUID2", [] { return error_of(bad_vcpu().set_cpuid2({})); }},
  };
}

void expect_bad_descriptor(const std::vector<BadCall>& calls) {
  for (const BadCall& each : calls) {
    const Error error = each.call();
    EXPECT_EQ(error.code, Code::kSystem) << each.name;
    EXPECT_EQ(error.sys_errno, EBADF) << each.name;
    EXPECT_EQ(error.context, each.name + (each.name == "KVM_CHECK_EXTENSION" ? " 1" : "") +
                                 ": Bad file descriptor");
  }
}

TEST(KvmWrapperTest, SystemAndVmCallsOnABadDescriptorAreErrorsThatNameTheCall) {
  expect_bad_descriptor(system_and_vm_calls());
}

TEST(KvmWrapperTest, CallsForKernelsOnABadDescriptorAreErrorsThatNameTheCall) {
  expect_bad_descriptor(calls_for_kernels());
}

TEST(KvmWrapperTest, RegisterReadsOnABadDescriptorAreErrorsThatNameTheCall) {
  expect_bad_descriptor(register_reads());
}

TEST(KvmWrapperTest, RegisterWritesOnABadDescriptorAreErrorsThatNameTheCall) {
  expect_bad_descriptor(register_writes());
}

TEST(KvmWrapperTest, ACpuidListLongerThanTheKernelTakesIsRefusedUnasked) {
  const std::vector<kvm_cpuid_entry2> entries(257);
  const Result<> set = bad_vcpu().set_cpuid2(entries);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, Code::kInvalid);
}

// The numbers that Debian 12's own header gets wrong in C++, as any other language has them.
TEST(KvmAbiTest, IoctlNumbersAreTheKernels) {
  EXPECT_EQ(KVM_GET_SUPPORTED_CPUID, 0xc008ae05u);
  EXPECT_EQ(KVM_GET_MSR_INDEX_LIST, 0xc004ae02u);
  EXPECT_EQ(KVM_SET_CPUID2, 0x4008ae90u);
  EXPECT_EQ(KVM_GET_CPUID2, 0xc008ae91u);
  EXPECT_EQ(KVM_GET_MSRS, 0xc008ae88u);
  EXPECT_EQ(KVM_SET_MSRS, 0x4008ae89u);
  EXPECT_EQ(KVM_SET_SIGNAL_MASK, 0x4004ae8bu);
  EXPECT_EQ(KVM_SET_GSI_ROUTING, 0x4008ae6au);
  EXPECT_EQ(KVM_GET_XSAVE, 0x9000aea4u);
  EXPECT_EQ(KVM_SET_XSAVE, 0x5000aea5u);
}

TEST(KvmAbiTest, StructsThatEndInAnArrayAreAsLargeAsTheirHead) {
  EXPECT_EQ(sizeof(kvm_cpuid2), 8u);
  EXPECT_EQ(sizeof(kvm_msrs), 8u);
  EXPECT_EQ(sizeof(kvm_msr_list), 4u);
  EXPECT_EQ(sizeof(kvm_signal_mask), 4u);
  EXPECT_EQ(sizeof(kvm_irq_routing), 8u);
  EXPECT_EQ(sizeof(kvm_xsave), 4096u);
}

using KvmOpenTest = test::KvmTest;

TEST_F(KvmOpenTest, AnOpenedKvmAnswersItsCalls) {
  EXPECT_GT(kvm().check_extension(KVM_CAP_USER_MEMORY).value(), 0);
  EXPECT_EQ(kvm().check_extension(99'999).value(), 0);
  EXPECT_FALSE(kvm().get_supported_cpuid().value().empty());
  EXPECT_FALSE(kvm().get_msr_index_list().value().empty());
}

TEST_F(KvmOpenTest, EachDescriptorOpensTheNext) {
  Vm vm = kvm().create_vm().value();
  EXPECT_TRUE(vm.create_vcpu(0));
  EXPECT_GT(vm.get_tsc_khz().value(), 0u);
  const Result<Vcpu> again = vm.create_vcpu(0);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().sys_errno, EEXIST);
}

// What a CPU is told is what it says of itself: a list that got a wrong size would not come back.
TEST_F(KvmOpenTest, CpuidAndMsrsComeBackAsTheyWereSet) {
  Vm vm = kvm().create_vm().value();
  Vcpu vcpu = vm.create_vcpu(0).value();
  const std::vector<kvm_cpuid_entry2> cpuid = kvm().get_supported_cpuid().value();
  ASSERT_TRUE(vcpu.set_cpuid2(cpuid));
  EXPECT_EQ(vcpu.get_cpuid2().value().size(), cpuid.size());
  constexpr std::uint32_t kLstar = 0xC000'0082;
  const kvm_msr_entry wanted[1] = {{.index = kLstar, .reserved = 0, .data = 0x1234'5000}};
  EXPECT_EQ(vcpu.set_msrs(wanted).value(), 1u);
  kvm_msr_entry got[1] = {{.index = kLstar, .reserved = 0, .data = 0}};
  EXPECT_EQ(vcpu.get_msrs(got).value(), 1u);
  EXPECT_EQ(got[0].data, wanted[0].data);
}

TEST_F(KvmOpenTest, AnUnknownMsrEndsTheListThereInsteadOfFailingIt) {
  Vm vm = kvm().create_vm().value();
  Vcpu vcpu = vm.create_vcpu(0).value();
  constexpr std::uint32_t kLstar = 0xC000'0082, kNone = 0x7777'7777;
  kvm_msr_entry msrs[3] = {{.index = kLstar}, {.index = kNone}, {.index = kLstar}};
  EXPECT_EQ(vcpu.get_msrs(msrs).value(), 1u);
}

}  // namespace
}  // namespace volt::vmm
