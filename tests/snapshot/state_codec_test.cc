// CPU state into the stored message and back: nothing of it may get lost or change places.
#include "snapshot/state_codec.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using vmm::CpuState;

// Through the bytes of a file, as capture and restore do it.
CpuState round_trip(const CpuState& state) {
  formats::MachineState message;
  *message.add_vcpus() = snapshot::to_message(state);
  const formats::MachineState read = must(formats::decode_machine_state(formats::encode(message)));
  return snapshot::from_message(read.vcpus(0));
}

template <typename T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// Bytes that differ from their neighbours; `first` tells structs apart.
template <typename T>
void fill_distinct(T& value, std::uint8_t first) {
  auto* const bytes = reinterpret_cast<std::uint8_t*>(&value);
  for (std::size_t i = 0; i < sizeof value; ++i) bytes[i] = static_cast<std::uint8_t>(first + i);
}

CpuState blank() {
  CpuState state;
  state.xsave.resize(4096);
  return state;
}

constexpr kvm_segment kvm_sregs::* kSegments[] = {&kvm_sregs::cs, &kvm_sregs::ds, &kvm_sregs::es,
                                                  &kvm_sregs::fs, &kvm_sregs::gs, &kvm_sregs::ss,
                                                  &kvm_sregs::tr, &kvm_sregs::ldt};

TEST(StateCodecTest, EveryGeneralRegisterKeepsItsValueAndPlace) {
  CpuState state = blank();
  fill_distinct(state.regs, 0x11);
  EXPECT_TRUE(same_bytes(round_trip(state).regs, state.regs));
}

TEST(StateCodecTest, EverySegmentKeepsItsPlaceBaseLimitAndSelector) {
  CpuState state = blank();
  std::uint64_t n = 1;
  for (const auto segment : kSegments) {
    (state.sregs.*segment).base = 0xFFFF'8000'0000'0000 + n;
    (state.sregs.*segment).limit = static_cast<std::uint32_t>(0xFFFF'FF00 + n);
    (state.sregs.*segment).selector = static_cast<std::uint16_t>(0xFF00 + n);
    ++n;
  }
  EXPECT_TRUE(same_bytes(round_trip(state).sregs, state.sregs));
}

TEST(StateCodecTest, EverySegmentAttributeIsKeptByItself) {
  struct Attribute {
    __u8 kvm_segment::* field;
    __u8 most;
  };
  const Attribute attributes[] = {
      {&kvm_segment::type, 15}, {&kvm_segment::present, 1}, {&kvm_segment::dpl, 3},
      {&kvm_segment::db, 1},    {&kvm_segment::s, 1},       {&kvm_segment::l, 1},
      {&kvm_segment::g, 1},     {&kvm_segment::avl, 1},     {&kvm_segment::unusable, 1}};
  for (const auto segment : kSegments) {
    for (const Attribute& attribute : attributes) {
      for (__u8 value = 1; value <= attribute.most; ++value) {
        CpuState state = blank();
        state.sregs.*segment.*attribute.field = value;
        EXPECT_TRUE(same_bytes(round_trip(state).sregs, state.sregs));
      }
    }
  }
}

TEST(StateCodecTest, EveryTableAndControlRegisterKeepsItsValueAndPlace) {
  CpuState state = blank();
  kvm_sregs& sregs = state.sregs;
  sregs.gdt = {.base = 0xFFFF'0000'0000'0001, .limit = 0xFFFE, .padding = {}};
  sregs.idt = {.base = 0xFFFF'0000'0000'0003, .limit = 0xFFFC, .padding = {}};
  std::uint64_t n = 0x8000'0000'0000'0000;
  for (__u64* const reg : {&sregs.cr0, &sregs.cr2, &sregs.cr3, &sregs.cr4, &sregs.cr8, &sregs.efer,
                           &sregs.apic_base}) {
    *reg = ++n;
  }
  EXPECT_TRUE(same_bytes(round_trip(state).sregs, sregs));
}

// What is stored of an XSAVE area: loading a shorter one leaves zeros behind it.
std::vector<std::byte> without_zeros_at_its_end(std::vector<std::byte> area) {
  while (area.size() > formats::kMinXsaveBytes && area.back() == std::byte{0}) area.pop_back();
  return area;
}

TEST(StateCodecTest, TheXsaveAreaIsKeptByteForByteAtEveryLegalSize) {
  for (const std::size_t bytes :
       {formats::kMinXsaveBytes, std::size_t{4096}, formats::kMaxXsaveBytes}) {
    CpuState state = blank();
    state.xsave.resize(bytes);
    for (std::size_t i = 0; i < bytes; ++i) {
      state.xsave[i] = static_cast<std::byte>(i * 7 + i / 256 + 1);
    }
    state.xsave.back() = std::byte{0x5A};
    EXPECT_EQ(round_trip(state).xsave, state.xsave);
    state.xsave[bytes / 2] = state.xsave.back() = std::byte{0};
    EXPECT_EQ(round_trip(state).xsave, without_zeros_at_its_end(state.xsave));
  }
}

TEST(StateCodecTest, EveryExtendedControlRegisterIsKeptInOrder) {
  CpuState state = blank();
  state.xcrs.nr_xcrs = KVM_MAX_XCRS;
  for (std::uint32_t i = 0; i < KVM_MAX_XCRS; ++i) {
    state.xcrs.xcrs[i] = {.xcr = 100 - i, .reserved = 0, .value = (std::uint64_t{1} << 63) + i};
  }
  EXPECT_TRUE(same_bytes(round_trip(state).xcrs, state.xcrs));
}

TEST(StateCodecTest, EveryDebugRegisterKeepsItsValueAndPlace) {
  CpuState state = blank();
  for (std::uint64_t i = 0; i < 4; ++i) state.debugregs.db[i] = ~i;
  state.debugregs.dr6 = 0xFFFF'0FF0'0000'0001;
  state.debugregs.dr7 = 0x400;
  EXPECT_TRUE(same_bytes(round_trip(state).debugregs, state.debugregs));
}

TEST(StateCodecTest, EveryEventKeepsItsValueAndPlace) {
  CpuState state = blank();
  kvm_vcpu_events& events = state.events;
  std::uint8_t n = 0xA0;
  for (__u8* const field :
       {&events.exception.injected, &events.exception.nr, &events.exception.has_error_code,
        &events.exception.pending, &events.interrupt.injected, &events.interrupt.nr,
        &events.interrupt.soft, &events.interrupt.shadow, &events.nmi.injected, &events.nmi.pending,
        &events.nmi.masked}) {
    *field = n++;
  }
  events.exception.error_code = 0xFEDC'BA98;
  events.exception_has_payload = 1;
  events.exception_payload = 0xFEDC'BA98'7654'3210;
  // Not state, but which fields the kernel shall take when they are set.
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  EXPECT_TRUE(same_bytes(round_trip(state).events, events));
}

TEST(StateCodecTest, EveryMsrIsKeptInTheOrderInWhichItIsSet) {
  CpuState state = blank();
  for (std::uint32_t i = 0; i < formats::kMaxMsrs; ++i) {
    state.msrs.push_back({.index = 0xC000'0000 - i * 3, .reserved = 0, .data = ~std::uint64_t{i}});
  }
  const CpuState read = round_trip(state);
  ASSERT_EQ(read.msrs.size(), state.msrs.size());
  for (std::size_t i = 0; i < state.msrs.size(); ++i) {
    EXPECT_TRUE(same_bytes(read.msrs[i], state.msrs[i])) << i;
  }
}

TEST(StateCodecTest, EveryCpuidLeafIsKeptAndWhetherItsIndexMatters) {
  CpuState state = blank();
  for (std::uint32_t i = 0; i < formats::kMaxCpuidEntries; ++i) {
    state.cpuid.push_back({.function = 0x8000'0000 + i,
                           .index = i * 3,
                           .flags = i % 2 == 0 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0U,
                           .eax = 0xA000'0000 + i,
                           .ebx = 0xB000'0000 + i,
                           .ecx = 0xC000'0000 + i,
                           .edx = 0xD000'0000 + i,
                           .padding = {}});
  }
  const CpuState read = round_trip(state);
  ASSERT_EQ(read.cpuid.size(), state.cpuid.size());
  for (std::size_t i = 0; i < state.cpuid.size(); ++i) {
    EXPECT_TRUE(same_bytes(read.cpuid[i], state.cpuid[i])) << i;
  }
}

TEST(StateCodecTest, TheRunStateIsKept) {
  CpuState state = blank();
  state.mp_state.mp_state = KVM_MP_STATE_HALTED;
  EXPECT_EQ(round_trip(state).mp_state.mp_state, __u32{KVM_MP_STATE_HALTED});
}

TEST(StateCodecTest, AStateWithNothingSetIsStillWhole) {
  const CpuState read = round_trip(blank());
  EXPECT_TRUE(same_bytes(read.regs, kvm_regs{}));
  EXPECT_TRUE(same_bytes(read.sregs, kvm_sregs{}));
  EXPECT_EQ(read.xcrs.nr_xcrs, 0U);
  EXPECT_TRUE(read.msrs.empty());
  EXPECT_TRUE(read.cpuid.empty());
}

class StateCodecKvmTest : public SnapshotTest {};

// What a real vCPU gave, set into another one and read from there, is the same to the bit.
TEST_F(StateCodecKvmTest, ARealCpusStateIsTheSameAfterTheFile) {
  const std::unique_ptr<Sandbox> guest = boot_exact_guest(kvm());
  must(guest->machine().quiesce());
  const vmm::StateSources sources = must(vmm::StateSources::probe(kvm()));
  const CpuState state = must(guest->machine().save(sources))[0];
  const CpuState read = round_trip(state);
  EXPECT_TRUE(same_bytes(read.regs, state.regs));
  EXPECT_TRUE(same_bytes(read.sregs, state.sregs));
  EXPECT_TRUE(same_bytes(read.debugregs, state.debugregs));
  EXPECT_TRUE(same_bytes(read.xcrs, state.xcrs));
  EXPECT_EQ(read.xsave, without_zeros_at_its_end(state.xsave));
  EXPECT_EQ(read.msrs.size(), state.msrs.size());
}

}  // namespace
}  // namespace volt::test
