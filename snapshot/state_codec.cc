#include "snapshot/state_codec.h"

#include <algorithm>
#include <cstddef>

namespace volt::snapshot {
namespace {

using namespace formats::v1;

// Segment attributes, bit by bit as machine_state.proto numbers them.
std::uint32_t pack(const kvm_segment& s) {
  const auto bits = [](std::uint32_t value, int shift) { return value << shift; };
  return bits(s.type, 0) | bits(s.present, 4) | bits(s.dpl, 5) | bits(s.db, 7) | bits(s.s, 8) |
         bits(s.l, 9) | bits(s.g, 10) | bits(s.avl, 11) | bits(s.unusable, 12);
}

void put(const kvm_segment& from, Segment& to) {
  to.set_base(from.base);
  to.set_limit(from.limit);
  to.set_selector(from.selector);
  to.set_attributes(pack(from));
}

kvm_segment take(const Segment& from) {
  const auto bits = [&](int shift, std::uint32_t mask) {
    return static_cast<std::uint8_t>(from.attributes() >> shift & mask);
  };
  kvm_segment to = {};
  to.base = from.base();
  to.limit = from.limit();
  to.selector = static_cast<std::uint16_t>(from.selector());
  to.type = bits(0, 15);
  to.present = bits(4, 1);
  to.dpl = bits(5, 3);
  to.db = bits(7, 1);
  to.s = bits(8, 1);
  to.l = bits(9, 1);
  to.g = bits(10, 1);
  to.avl = bits(11, 1);
  to.unusable = bits(12, 1);
  return to;
}

void put(const kvm_dtable& from, DescriptorTable& to) {
  to.set_base(from.base);
  to.set_limit(from.limit);
}

kvm_dtable take(const DescriptorTable& from) {
  kvm_dtable to = {};
  to.base = from.base();
  to.limit = static_cast<std::uint16_t>(from.limit());
  return to;
}

void put(const kvm_regs& from, GeneralRegisters& to) {
  to.set_rax(from.rax);
  to.set_rbx(from.rbx);
  to.set_rcx(from.rcx);
  to.set_rdx(from.rdx);
  to.set_rsi(from.rsi);
  to.set_rdi(from.rdi);
  to.set_rsp(from.rsp);
  to.set_rbp(from.rbp);
  for (const std::uint64_t r :
       {from.r8, from.r9, from.r10, from.r11, from.r12, from.r13, from.r14, from.r15}) {
    to.add_r8_to_r15(r);
  }
  to.set_rip(from.rip);
  to.set_rflags(from.rflags);
}

kvm_regs take(const GeneralRegisters& from) {
  kvm_regs to = {};
  to.rax = from.rax();
  to.rbx = from.rbx();
  to.rcx = from.rcx();
  to.rdx = from.rdx();
  to.rsi = from.rsi();
  to.rdi = from.rdi();
  to.rsp = from.rsp();
  to.rbp = from.rbp();
  __u64* const high[] = {&to.r8, &to.r9, &to.r10, &to.r11, &to.r12, &to.r13, &to.r14, &to.r15};
  for (int i = 0; i < from.r8_to_r15_size(); ++i) *high[i] = from.r8_to_r15(i);
  to.rip = from.rip();
  to.rflags = from.rflags();
  return to;
}

void put(const kvm_sregs& from, SpecialRegisters& to) {
  put(from.cs, *to.mutable_cs());
  put(from.ds, *to.mutable_ds());
  put(from.es, *to.mutable_es());
  put(from.fs, *to.mutable_fs());
  put(from.gs, *to.mutable_gs());
  put(from.ss, *to.mutable_ss());
  put(from.tr, *to.mutable_tr());
  put(from.ldt, *to.mutable_ldt());
  put(from.gdt, *to.mutable_gdt());
  put(from.idt, *to.mutable_idt());
  to.set_cr0(from.cr0);
  to.set_cr2(from.cr2);
  to.set_cr3(from.cr3);
  to.set_cr4(from.cr4);
  to.set_cr8(from.cr8);
  to.set_efer(from.efer);
  to.set_apic_base(from.apic_base);
}

void put(const kvm_vcpu_events& from, Events& to) {
  to.set_exception_injected(from.exception.injected);
  to.set_exception_vector(from.exception.nr);
  to.set_exception_has_error_code(from.exception.has_error_code);
  to.set_exception_error_code(from.exception.error_code);
  to.set_exception_pending(from.exception.pending);
  to.set_exception_has_payload(from.exception_has_payload != 0);
  to.set_exception_payload(from.exception_payload);
  to.set_interrupt_injected(from.interrupt.injected);
  to.set_interrupt_vector(from.interrupt.nr);
  to.set_interrupt_soft(from.interrupt.soft);
  to.set_interrupt_shadow(from.interrupt.shadow);
  to.set_nmi_injected(from.nmi.injected);
  to.set_nmi_pending(from.nmi.pending);
  to.set_nmi_masked(from.nmi.masked);
}

kvm_vcpu_events take(const Events& from) {
  const auto byte = [](std::uint32_t value) { return static_cast<std::uint8_t>(value); };
  kvm_vcpu_events to = {};
  to.exception.injected = byte(from.exception_injected());
  to.exception.nr = byte(from.exception_vector());
  to.exception.has_error_code = byte(from.exception_has_error_code());
  to.exception.error_code = from.exception_error_code();
  to.exception.pending = byte(from.exception_pending());
  to.exception_has_payload = from.exception_has_payload() ? 1 : 0;
  to.exception_payload = from.exception_payload();
  to.interrupt.injected = byte(from.interrupt_injected());
  to.interrupt.nr = byte(from.interrupt_vector());
  to.interrupt.soft = byte(from.interrupt_soft());
  to.interrupt.shadow = byte(from.interrupt_shadow());
  to.nmi.injected = byte(from.nmi_injected());
  to.nmi.pending = byte(from.nmi_pending());
  to.nmi.masked = byte(from.nmi_masked());
  to.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  return to;
}

// Length of the XSAVE area without the zeros at its end: most of it is room for registers that no
// guest has used, and loading a shorter area leaves those zero.
std::size_t significant_bytes(const std::vector<std::byte>& area) {
  constexpr std::size_t kLegacyAndHeader = 576;
  std::size_t length = area.size();
  while (length > kLegacyAndHeader && area[length - 1] == std::byte{0}) --length;
  return length;
}

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_from(const Vcpu& message) {
  std::vector<kvm_cpuid_entry2> entries;
  for (const CpuidEntry& from : message.cpuid()) {
    entries.push_back({.function = from.function(),
                       .index = from.index(),
                       .flags = from.index_matters() ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0u,
                       .eax = from.eax(),
                       .ebx = from.ebx(),
                       .ecx = from.ecx(),
                       .edx = from.edx()});
  }
  return entries;
}

kvm_sregs sregs_from(const SpecialRegisters& from) {
  kvm_sregs to = {};
  to.cs = take(from.cs());
  to.ds = take(from.ds());
  to.es = take(from.es());
  to.fs = take(from.fs());
  to.gs = take(from.gs());
  to.ss = take(from.ss());
  to.tr = take(from.tr());
  to.ldt = take(from.ldt());
  to.gdt = take(from.gdt());
  to.idt = take(from.idt());
  to.cr0 = from.cr0();
  to.cr2 = from.cr2();
  to.cr3 = from.cr3();
  to.cr4 = from.cr4();
  to.cr8 = from.cr8();
  to.efer = from.efer();
  to.apic_base = from.apic_base();
  return to;
}

Vcpu to_message(const vmm::CpuState& state) {
  Vcpu message;
  put(state.regs, *message.mutable_general());
  put(state.sregs, *message.mutable_special());
  message.set_xsave(state.xsave.data(), significant_bytes(state.xsave));
  for (std::uint32_t i = 0; i < state.xcrs.nr_xcrs; ++i) {
    ControlRegister& to = *message.add_xcrs();
    to.set_index(state.xcrs.xcrs[i].xcr);
    to.set_value(state.xcrs.xcrs[i].value);
  }
  for (const std::uint64_t address : state.debugregs.db) message.mutable_debug()->add_db(address);
  message.mutable_debug()->set_dr6(state.debugregs.dr6);
  message.mutable_debug()->set_dr7(state.debugregs.dr7);
  put(state.events, *message.mutable_events());
  for (const kvm_msr_entry& from : state.msrs) {
    Msr& to = *message.add_msrs();
    to.set_index(from.index);
    to.set_value(from.data);
  }
  message.set_mp_state(state.mp_state.mp_state);
  for (const kvm_cpuid_entry2& from : state.cpuid) {
    CpuidEntry& to = *message.add_cpuid();
    to.set_function(from.function);
    to.set_index(from.index);
    to.set_index_matters((from.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0);
    to.set_eax(from.eax);
    to.set_ebx(from.ebx);
    to.set_ecx(from.ecx);
    to.set_edx(from.edx);
  }
  return message;
}

vmm::CpuState from_message(const Vcpu& message) {
  vmm::CpuState state;
  state.regs = take(message.general());
  state.sregs = sregs_from(message.special());
  const auto area = std::as_bytes(std::span(message.xsave()));
  state.xsave.assign(area.begin(), area.end());
  for (const ControlRegister& from : message.xcrs()) {
    auto& to = state.xcrs.xcrs[state.xcrs.nr_xcrs++];
    to.xcr = from.index();
    to.value = from.value();
  }
  std::copy(message.debug().db().begin(), message.debug().db().end(), state.debugregs.db);
  state.debugregs.dr6 = message.debug().dr6();
  state.debugregs.dr7 = message.debug().dr7();
  state.events = take(message.events());
  for (const Msr& from : message.msrs()) {
    state.msrs.push_back({.index = from.index(), .data = from.value()});
  }
  state.mp_state.mp_state = message.mp_state();
  state.cpuid = cpuid_from(message);
  return state;
}

}  // namespace volt::snapshot
