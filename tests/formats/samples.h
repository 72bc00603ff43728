// Samples that the format tests share, every field set that may be, and the files they make. The
// golden files hold these very samples, so a change here is a change of what version 1 means.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "formats/head.h"
#include "formats/machine_state.h"
#include "formats/manifest.h"
#include "formats/memory_index.h"

namespace volt::formats {

using Bytes = std::vector<std::byte>;

inline constexpr std::uint64_t kMiB = 1 << 20;

inline Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// `count` bytes that count up from `first`.
inline std::string counting(std::size_t count, char first) {
  std::string text(count, '\0');
  std::iota(text.begin(), text.end(), first);
  return text;
}

inline void add_region(v1::Memory& memory, std::uint64_t base, std::uint64_t size,
                       std::uint64_t offset) {
  v1::Region& region = *memory.add_regions();
  region.set_guest_base(base);
  region.set_size_bytes(size);
  region.set_file_offset(offset);
}

inline void add_extent(v1::Memory& memory, std::uint64_t offset, std::uint64_t size) {
  v1::Extent& extent = *memory.add_data();
  extent.set_file_offset(offset);
  extent.set_size_bytes(size);
}

// 48 MiB in two regions; 16 MiB of data on both sides of their border, and a unit at the end.
inline v1::Memory sample_memory() {
  v1::Memory memory;
  add_region(memory, 0, 32 * kMiB, 0);
  add_region(memory, 0x1'0000'0000, 16 * kMiB, 32 * kMiB);
  add_extent(memory, 24 * kMiB, 8 * kMiB);
  add_extent(memory, 32 * kMiB, 8 * kMiB);
  add_extent(memory, 48 * kMiB - kDefaultUnitBytes, kDefaultUnitBytes);
  memory.set_unit_bytes(kDefaultUnitBytes);
  memory.set_stored_bytes(130 * kDefaultUnitBytes);
  memory.set_digest(counting(32, 3));
  return memory;
}

inline v1::Guest sample_guest() {
  v1::Guest guest;
  guest.set_kind("micro");
  guest.set_image_sha256(counting(32, 1));
  guest.set_workload("kv");
  guest.set_seed(7);
  guest.set_working_set_base(24 * kMiB);
  guest.set_working_set_bytes(16 * kMiB);
  guest.set_mutable_base(kMiB);
  guest.set_mutable_bytes(64 << 10);
  guest.set_health_checksum(0x0123'4567'89AB'CDEF);
  guest.set_working_set_checksum(0xFEDC'BA98'7654'3210);
  guest.add_calls("put 1 2");
  guest.add_calls("get 1");
  guest.set_generation(counting(16, 2));
  return guest;
}

inline v1::Compatibility sample_compatibility() {
  v1::Compatibility needs;
  needs.set_kvm_vendor("kvm_amd");
  needs.set_cpu_vendor("AuthenticAMD");
  needs.set_cpu_signature(0x00A2'0F12);
  needs.set_kernel_release("6.1.0-18-amd64");
  needs.set_tsc_khz(2'450'000);
  for (const char* name : {"avx", "avx2", "sse4_2"}) needs.add_cpu_features(name);
  for (const std::uint32_t number : {3U, 55U, 74U}) needs.add_kvm_capabilities(number);
  for (const std::uint32_t number : {0x10U, 0xC000'0080U}) needs.add_msrs(number);
  needs.set_exact_state(true);
  return needs;
}

inline Manifest sample_manifest() {
  Manifest manifest;
  manifest.set_created_by("volt 0.1.0");
  manifest.set_created_unix_ns(1'700'000'000'000'000'000);
  *manifest.mutable_guest() = sample_guest();
  *manifest.mutable_memory() = sample_memory();
  manifest.mutable_state()->set_size_bytes(1234);
  manifest.mutable_state()->set_sha256(counting(32, 4));
  manifest.mutable_index()->set_size_bytes(4272);
  manifest.mutable_index()->set_sha256(counting(32, 5));
  *manifest.mutable_compatibility() = sample_compatibility();
  for (const char* key : {"app", "env.stage"}) {
    v1::Label& label = *manifest.add_labels();
    label.set_key(key);
    label.set_value("blue / 42");
  }
  manifest.set_parent(counting(32, 6));
  manifest.set_boot_us(81'234);
  return manifest;
}

inline void fill(v1::Segment& segment, std::uint32_t selector) {
  segment.set_base(selector * 0x1000);
  segment.set_limit(0xFFFF'FFFF);
  segment.set_selector(selector);
  segment.set_attributes(0x0FFF);
}

inline void fill(v1::SpecialRegisters& special) {
  fill(*special.mutable_cs(), 1);
  fill(*special.mutable_ds(), 2);
  fill(*special.mutable_es(), 3);
  fill(*special.mutable_fs(), 4);
  fill(*special.mutable_gs(), 5);
  fill(*special.mutable_ss(), 6);
  fill(*special.mutable_tr(), 7);
  fill(*special.mutable_ldt(), 8);
  for (v1::DescriptorTable* table : {special.mutable_gdt(), special.mutable_idt()}) {
    table->set_base(0x5000);
    table->set_limit(0x7F);
  }
  special.set_cr0(0x8005'0033);
  special.set_cr2(0xDEAD'0000);
  special.set_cr3(0x1000);
  special.set_cr4(0x620);
  special.set_cr8(1);
  special.set_efer(0xD01);
  special.set_apic_base(0xFEE0'0900);
}

inline void fill(v1::Events& events) {
  events.set_exception_injected(1);
  events.set_exception_vector(14);
  events.set_exception_has_error_code(1);
  events.set_exception_error_code(0x8000'0006);
  events.set_exception_pending(1);
  events.set_exception_has_payload(true);
  events.set_exception_payload(0xDEAD'0000);
  events.set_interrupt_injected(1);
  events.set_interrupt_vector(0xEF);
  events.set_interrupt_soft(1);
  events.set_interrupt_shadow(3);
  events.set_nmi_injected(1);
  events.set_nmi_pending(1);
  events.set_nmi_masked(1);
}

inline void fill(v1::GeneralRegisters& general) {
  general.set_rax(1);
  general.set_rbx(2);
  general.set_rcx(3);
  general.set_rdx(4);
  general.set_rsi(5);
  general.set_rdi(6);
  general.set_rsp(7);
  general.set_rbp(8);
  for (std::uint64_t i = 8; i < 16; ++i) general.add_r8_to_r15(i << 32);
  general.set_rip(0x20'0000);
  general.set_rflags(0x202);
}

inline MachineState sample_state() {
  MachineState state;
  v1::Vcpu& vcpu = *state.add_vcpus();
  fill(*vcpu.mutable_general());
  fill(*vcpu.mutable_special());
  vcpu.set_xsave(counting(kMinXsaveBytes, 9));
  v1::ControlRegister& xcr = *vcpu.add_xcrs();
  xcr.set_index(0);
  xcr.set_value(7);
  for (std::uint64_t i = 0; i < 4; ++i) vcpu.mutable_debug()->add_db(i);
  vcpu.mutable_debug()->set_dr6(0xFFFF'0FF0);
  vcpu.mutable_debug()->set_dr7(0x400);
  fill(*vcpu.mutable_events());
  v1::Msr& msr = *vcpu.add_msrs();
  msr.set_index(0xC000'0080);
  msr.set_value(0xD01);
  vcpu.set_mp_state(3);
  v1::CpuidEntry& leaf = *vcpu.add_cpuid();
  leaf.set_function(7);
  leaf.set_index(1);
  leaf.set_index_matters(true);
  leaf.set_eax(10);
  leaf.set_ebx(11);
  leaf.set_ecx(12);
  leaf.set_edx(13);
  state.mutable_resume()->set_entry(0x20'1000);
  state.mutable_resume()->set_stack_top(0x30'0000);
  state.mutable_resume()->set_argument(0xD000'0000);
  return state;
}

// Entry i of n: unit 3 * i + 2, so that there is room before, between and behind.
inline std::vector<IndexEntry> sample_entries(std::size_t n, std::uint64_t seed = 0) {
  std::vector<IndexEntry> entries(n);
  for (std::size_t i = 0; i < n; ++i) {
    entries[i].unit = 3 * i + 2;
    entries[i].sum = xxh128(std::as_bytes(std::span(&entries[i].unit, 1)), seed);
    entries[i].place = i * kDefaultUnitBytes;
  }
  return entries;
}

inline Bytes sample_index(std::size_t n, std::uint64_t seed = 0) {
  return encode_memory_index(sample_entries(n, seed), kDefaultUnitBytes);
}

// A file around a body that encode() would refuse to write.
inline Bytes sealed_as(FileKind kind, const google::protobuf::MessageLite& message) {
  return seal(kind, bytes_of(message.SerializeAsString()));
}

inline Bytes golden(const char* name) {
  std::ifstream in(std::string(VOLT_GOLDEN_DIR "/") + name, std::ios::binary);
  EXPECT_TRUE(in) << name;
  return bytes_of(std::string(std::istreambuf_iterator<char>(in), {}));
}

// ---- Damage.

using Reader = std::function<Result<>(std::span<const std::byte>)>;

inline void expect_every_truncation_refused(const Bytes& whole, const Reader& read) {
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
    const Result<> good = read(part);
    ASSERT_FALSE(good) << "accepted " << n << " bytes";
    EXPECT_EQ(good.error().code, Code::kCorrupt) << n << " bytes: " << good.error().context;
  }
}

// The error must name the file and, behind it, a field.
inline void expect_every_bit_flip_refused(Bytes bytes, const std::string& name,
                                          const Reader& read) {
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1U << (bit % 8));
    bytes[bit / 8] ^= mask;
    const Result<> good = read(bytes);
    bytes[bit / 8] ^= mask;
    ASSERT_FALSE(good) << "accepted with bit " << bit << " flipped";
    const Error& error = good.error();
    EXPECT_TRUE(error.code == Code::kCorrupt || error.code == Code::kUnsupported) << error.context;
    const std::string start = name + ": ";
    ASSERT_TRUE(error.context.starts_with(start)) << error.context;
    EXPECT_NE(error.context.find(": ", start.size()), std::string::npos) << error.context;
  }
}

}  // namespace volt::formats
