// The three kinds of KVM descriptor. One method is one ioctl, named after it: no logging, no
// policy, and no retries but create_vm()'s.
//   Kvm  - /dev/kvm: what the host offers; creates VMs
//   Vm   - one guest: memory slots, doorbells; creates vCPUs
//   Vcpu - one CPU: register state and run(); used by one thread at a time
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/kvm_abi.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/os/mapping.h"

namespace volt::vmm {

class Vcpu {
 public:
  // Takes over descriptors made elsewhere; `run` maps the vCPU's kvm_run.
  Vcpu(Fd fd, Mapping run) : fd_(std::move(fd)), run_(std::move(run)) {}

  enum class Ran { kExited, kInterrupted };
  // KVM_RUN. kInterrupted: a signal, or immediate_exit. EFAULT: a page of its memory is not to be
  // had.
  Result<Ran> run();
  // What the last run left, and where the next one looks.
  kvm_run& page() const { return *reinterpret_cast<kvm_run*>(run_.data()); }

  Result<kvm_regs> get_regs() const;
  Result<> set_regs(const kvm_regs& regs);
  Result<kvm_sregs> get_sregs() const;
  Result<> set_sregs(const kvm_sregs& sregs);
  // The area in standard format; `bytes` is what KVM_CAP_XSAVE2 says, at least 4,096.
  Result<std::vector<std::byte>> get_xsave(std::size_t bytes) const;
  Result<> set_xsave(std::span<const std::byte> area);
  Result<kvm_xcrs> get_xcrs() const;
  Result<> set_xcrs(const kvm_xcrs& xcrs);
  Result<kvm_debugregs> get_debugregs() const;
  Result<> set_debugregs(const kvm_debugregs& debugregs);
  Result<kvm_vcpu_events> get_vcpu_events() const;
  Result<> set_vcpu_events(const kvm_vcpu_events& events);
  Result<kvm_mp_state> get_mp_state() const;
  Result<> set_mp_state(const kvm_mp_state& state);
  // KVM stops at the first MSR it refuses: the result says how many it handled.
  Result<std::size_t> get_msrs(std::span<kvm_msr_entry> msrs) const;
  Result<std::size_t> set_msrs(std::span<const kvm_msr_entry> msrs);
  Result<std::vector<kvm_cpuid_entry2>> get_cpuid2() const;
  Result<> set_cpuid2(std::span<const kvm_cpuid_entry2> entries);
  Result<kvm_lapic_state> get_lapic() const;
  Result<> set_lapic(const kvm_lapic_state& state);
  Result<> set_tsc_khz(std::uint64_t khz);

 private:
  Fd fd_;
  Mapping run_;
};

class Vm {
 public:
  // Takes over a descriptor made elsewhere; `run_bytes` is the size of a vCPU's kvm_run.
  Vm(Fd fd, std::size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  // KVM keeps the host address, not a reference: `memory` must outlive this Vm and every Vcpu of
  // it.
  Result<> set_user_memory_region(std::uint32_t slot, std::uint64_t guest_base,
                                  std::span<std::byte> memory);
  Result<Vcpu> create_vcpu(std::uint32_t id);
  Result<> enable_cap(std::uint32_t capability, std::uint64_t argument);
  // A 4-byte OUT to `port` adds 1 to `event` and the guest runs on.
  Result<> ioeventfd(std::uint16_t port, const Fd& event);
  // Of every vCPU it creates. Asked of the VM because asking a vCPU costs 10 us more.
  Result<std::uint64_t> get_tsc_khz() const;

  // For guests that run kernels. The two addresses are three pages and one that VMX may use; the
  // interrupt controllers come after the memory slots (a slot costs 25 times as much then) and
  // before the vCPUs.
  Result<> set_tss_addr(std::uint64_t address);
  Result<> set_identity_map_addr(std::uint64_t address);
  Result<> create_irqchip();
  Result<kvm_irqchip> get_irqchip(std::uint32_t chip) const;
  Result<> set_irqchip(const kvm_irqchip& state);
  Result<> set_gsi_routing(std::span<const kvm_irq_routing_entry> entries);
  // What is added to `event` is an edge on interrupt `gsi`.
  Result<> irqfd(std::uint32_t gsi, const Fd& event);
  Result<kvm_clock_data> get_clock() const;
  Result<> set_clock(const kvm_clock_data& clock);

 private:
  Fd fd_;
  std::size_t run_bytes_;
};

class Kvm {
 public:
  // Opens /dev/kvm and checks what every part of Volt relies on. kHostUnable says what to do.
  static Result<Kvm> open();
  // Takes over a descriptor made elsewhere; `run_bytes` is the size of a vCPU's kvm_run.
  Kvm(Fd fd, std::size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  Result<int> check_extension(int capability) const;
  Result<Vm> create_vm() const;
  Result<std::vector<kvm_cpuid_entry2>> get_supported_cpuid() const;
  Result<std::vector<std::uint32_t>> get_msr_index_list() const;

 private:
  Fd fd_;
  std::size_t run_bytes_;
};

}  // namespace volt::vmm
