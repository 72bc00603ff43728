// One virtual machine, made in three steps so that a VM prepared earlier can skip the first:
//   build()          VM, exchange window and CPUs; nothing of any guest yet
//   attach_memory()  guest RAM becomes visible
//   start() / load() registers: where a guest begins, or the whole state it stopped with
// then run() from one doorbell to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vmm/cpu_state.h"
#include "vmm/exchange.h"
#include "vmm/guest_memory.h"
#include "vmm/interrupt.h"
#include "vmm/kvm.h"
#include "vmm/ram_slots.h"

namespace volt::vmm {

struct Doorbell {
  enum class Kind { kReady, kPark, kDone, kHostCall, kExit };
  Kind kind;
  std::uint32_t value;
};

// Pinned: the kernel keeps addresses of its parts.
class Machine {
 public:
  static Result<std::unique_ptr<Machine>> build(const Kvm& kvm, std::size_t cpus);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Result<> attach_memory(GuestMemory memory, Attach how = Attach::kAll);

  // CPU 0 begins at `regs` in an otherwise fresh CPU. Costs no ioctl at all: the registers ride on
  // the first run, and CPUID is left empty, since a guest that starts this way never asks (setting
  // it costs KVM 57 us here, a tenth of a restore).
  void start(const kvm_regs& regs, const kvm_sregs& sregs);
  // Every CPU goes on exactly where its state says.
  Result<> load(std::span<const CpuState> cpus);

  // Runs CPU 0 to its next doorbell. kGuestCrashed: it stopped by its own fault, with vector and
  // registers. kPageLost: memory it needs cannot be had. kDeadline, kInterrupted: it can go on.
  Result<Doorbell> run(Deadline deadline);

  // Finishes what CPUs were in the middle of (a port write still to be completed), so that their
  // state is whole and may be saved, changed, or left alone.
  Result<> quiesce();
  Result<std::vector<CpuState>> save(const StateSources& sources) const;

  // A KICK of the guest adds 1 to `event`, without an exit.
  Result<> signal_kicks_to(const Fd& event);

  Exchange& exchange() { return exchange_; }
  const GuestMemory& memory() const { return ram_.memory(); }
  const RamSlots& ram() const { return ram_; }
  Result<std::uint64_t> tsc_khz() const { return vm_.get_tsc_khz(); }

 private:
  Machine(Exchange exchange, Vm vm, std::vector<Vcpu> vcpus);
  Result<Doorbell> take_exit();
  std::unexpected<Error> panicked(std::uint32_t vector) const;

  // Destroyed last to first: CPUs, then the VM, then the memory it used.
  RamSlots ram_;
  Exchange exchange_;
  Vm vm_;
  std::vector<Vcpu> vcpus_;
};

}  // namespace volt::vmm
