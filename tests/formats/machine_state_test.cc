#include "formats/machine_state.h"

#include <gtest/gtest.h>

#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

Result<> read(std::span<const std::byte> file) {
  VOLT_TRY(decode_machine_state(file));
  return {};
}

struct Violation {
  const char* expected;  // the error, "state: vcpus[0]." left out
  std::function<void(v1::Vcpu&)> commit;
};

void expect_each_refused(std::span<const Violation> violations) {
  for (const Violation& violation : violations) {
    MachineState state = sample_state();
    violation.commit(*state.mutable_vcpus(0));
    const Result<> good = check(state);
    ASSERT_FALSE(good) << violation.expected;
    EXPECT_EQ(good.error().code, Code::kCorrupt);
    EXPECT_EQ(good.error().context, std::string("state: vcpus[0].") + violation.expected);
    const Result<> decoded = read(sealed_as(FileKind::kMachineState, state));
    ASSERT_FALSE(decoded) << violation.expected;
    EXPECT_EQ(decoded.error().code, Code::kCorrupt);
  }
}

TEST(MachineStateTest, ComesBackAsItWas) {
  const Bytes file = encode(sample_state());
  const Result<MachineState> state = decode_machine_state(file);
  ASSERT_TRUE(state) << state.error().context;
  EXPECT_EQ(state->SerializeAsString(), sample_state().SerializeAsString());
  EXPECT_EQ(encode(*state), file);
}

TEST(MachineStateTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_state.bin");
  const Result<MachineState> state = decode_machine_state(file);
  ASSERT_TRUE(state) << state.error().context;
  ASSERT_EQ(state->vcpus_size(), 1);
  const v1::Vcpu& vcpu = state->vcpus(0);
  EXPECT_EQ(vcpu.general().rip(), 0x20'0000);
  EXPECT_EQ(vcpu.general().r8_to_r15(7), std::uint64_t{15} << 32);
  EXPECT_EQ(vcpu.special().ldt().selector(), 8);
  EXPECT_EQ(vcpu.special().idt().limit(), 0x7F);
  EXPECT_EQ(vcpu.special().apic_base(), 0xFEE0'0900);
  EXPECT_EQ(vcpu.xsave().size(), kMinXsaveBytes);
  EXPECT_EQ(vcpu.xcrs(0).value(), 7);
  EXPECT_EQ(vcpu.debug().dr6(), 0xFFFF'0FF0);
  EXPECT_EQ(vcpu.events().exception_error_code(), 0x8000'0006);
  EXPECT_EQ(vcpu.msrs(0).index(), 0xC000'0080);
  EXPECT_EQ(vcpu.mp_state(), 3);
  EXPECT_EQ(vcpu.cpuid(0).edx(), 13);
  EXPECT_EQ(state->resume().stack_top(), 0x30'0000);
  EXPECT_EQ(encode(sample_state()), file);
}

TEST(MachineStateTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(encode(sample_state()), read);
}

TEST(MachineStateTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(encode(sample_state()), "state", read);
}

TEST(MachineStateTest, NoCpuIsNoMachine) {
  EXPECT_EQ(check(MachineState()).error().context, "state: vcpus: none");
}

TEST(MachineStateTest, AtMost64Cpus) {
  MachineState state;
  for (int i = 0; i < 64; ++i) *state.add_vcpus() = sample_state().vcpus(0);
  EXPECT_TRUE(read(encode(state)));
  *state.add_vcpus() = sample_state().vcpus(0);
  EXPECT_EQ(check(state).error().context, "state: vcpus: 65, at most 64");
  EXPECT_EQ(read(sealed_as(FileKind::kMachineState, state)).error().context,
            "state: vcpus: more than 64");
}

TEST(MachineStateTest, ResumeMayBeAbsent) {
  MachineState state = sample_state();
  state.clear_resume();
  const Result<MachineState> back = decode_machine_state(encode(state));
  ASSERT_TRUE(back) << back.error().context;
  EXPECT_FALSE(back->has_resume());
}

TEST(MachineStateTest, TheErrorNamesTheCpu) {
  MachineState state = sample_state();
  *state.add_vcpus() = state.vcpus(0);
  state.mutable_vcpus(1)->mutable_general()->mutable_r8_to_r15()->RemoveLast();
  EXPECT_EQ(check(state).error().context, "state: vcpus[1].general.r8_to_r15: 7 values, not 8");
}

TEST(MachineStateTest, RegisterRules) {
  const Violation violations[] = {
      {"general: missing", [](v1::Vcpu& v) { v.clear_general(); }},
      {"general.r8_to_r15: 9 values, not 8",
       [](v1::Vcpu& v) { v.mutable_general()->add_r8_to_r15(0); }},
      {"special: missing", [](v1::Vcpu& v) { v.clear_special(); }},
      {"special.cs: missing", [](v1::Vcpu& v) { v.mutable_special()->clear_cs(); }},
      {"special.ldt: missing", [](v1::Vcpu& v) { v.mutable_special()->clear_ldt(); }},
      {"special.idt: missing", [](v1::Vcpu& v) { v.mutable_special()->clear_idt(); }},
      {"special.ds.selector: 65536, at most 65535",
       [](v1::Vcpu& v) { v.mutable_special()->mutable_ds()->set_selector(0x1'0000); }},
      {"special.tr.attributes: 8192, at most 8191",
       [](v1::Vcpu& v) { v.mutable_special()->mutable_tr()->set_attributes(1 << 13); }},
      {"special.gdt.limit: 65536, at most 65535",
       [](v1::Vcpu& v) { v.mutable_special()->mutable_gdt()->set_limit(0x1'0000); }},
      {"xsave: 575 bytes, not 576 to 65536",
       [](v1::Vcpu& v) { v.mutable_xsave()->resize(kMinXsaveBytes - 1); }},
      {"xsave: 65537 bytes, not 576 to 65536",
       [](v1::Vcpu& v) { v.mutable_xsave()->resize(kMaxXsaveBytes + 1); }},
      {"debug: missing", [](v1::Vcpu& v) { v.clear_debug(); }},
      {"debug.db: 5 values, not 4", [](v1::Vcpu& v) { v.mutable_debug()->add_db(0); }},
      {"events: missing", [](v1::Vcpu& v) { v.clear_events(); }},
  };
  expect_each_refused(violations);
}

TEST(MachineStateTest, ListsAreBounded) {
  const Violation violations[] = {
      {"xcrs: 17, at most 16",
       [](v1::Vcpu& v) {
         while (v.xcrs_size() < 17) v.add_xcrs();
       }},
      {"msrs: 1025, at most 1024",
       [](v1::Vcpu& v) {
         while (v.msrs_size() < 1025) v.add_msrs();
       }},
      {"cpuid: 257, at most 256",
       [](v1::Vcpu& v) {
         while (v.cpuid_size() < 257) v.add_cpuid();
       }},
  };
  expect_each_refused(violations);
}

// KVM keeps these in bytes: a wider value would be cut off on its way there.
TEST(MachineStateTest, EventsFitTheirBytes) {
  const auto event = [](const char* expected, void (v1::Events::*set)(std::uint32_t)) {
    return Violation{expected, [set](v1::Vcpu& v) { (v.mutable_events()->*set)(256); }};
  };
  const Violation violations[] = {
      event("events.exception_injected: 256, at most 255", &v1::Events::set_exception_injected),
      event("events.exception_vector: 256, at most 255", &v1::Events::set_exception_vector),
      event("events.exception_has_error_code: 256, at most 255",
            &v1::Events::set_exception_has_error_code),
      event("events.exception_pending: 256, at most 255", &v1::Events::set_exception_pending),
      event("events.interrupt_injected: 256, at most 255", &v1::Events::set_interrupt_injected),
      event("events.interrupt_vector: 256, at most 255", &v1::Events::set_interrupt_vector),
      event("events.interrupt_soft: 256, at most 255", &v1::Events::set_interrupt_soft),
      event("events.interrupt_shadow: 256, at most 255", &v1::Events::set_interrupt_shadow),
      event("events.nmi_injected: 256, at most 255", &v1::Events::set_nmi_injected),
      event("events.nmi_pending: 256, at most 255", &v1::Events::set_nmi_pending),
      event("events.nmi_masked: 256, at most 255", &v1::Events::set_nmi_masked),
  };
  expect_each_refused(violations);
}

TEST(MachineStateDeathTest, EncodingWhatBreaksTheRulesIsTheCallersBug) {
  EXPECT_DEATH(encode(MachineState()), "state: vcpus: none");
}

}  // namespace
}  // namespace volt::formats
