// A machine that Linux runs on: CPUs with a thread each, KVM's interrupt controllers, and devices
// on two buses. Built in one order (memory slots, then interrupt controllers, then CPUs), because
// any other costs milliseconds; then started or loaded, run, paused, and run again, until the guest
// ends it or it is destroyed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vmm/device.h"
#include "vmm/guest_memory.h"
#include "vmm/interrupt.h"
#include "vmm/kvm.h"
#include "vmm/pc/cpuid.h"
#include "vmm/pc/pc_state.h"
#include "vmm/pc/power.h"
#include "vmm/pc/serial.h"
#include "vmm/ram_slots.h"
#include "vmm/virtio/mmio.h"

namespace volt::pc {

struct PcConfig {
  std::uint32_t cpus = 1;
  CpuTemplate cpu_template = CpuTemplate::kHost;
  Serial::Sink console;
};

// Microseconds that each part of building took.
struct PcPhases {
  std::uint64_t vm_us = 0;
  std::uint64_t memory_us = 0;  // slots
  std::uint64_t devices_us = 0;
  std::uint64_t cpuid_us = 0;
  std::uint64_t cpus_us = 0;
  std::uint64_t total_us() const { return vm_us + memory_us + devices_us + cpuid_us + cpus_us; }
};

// Pinned: threads and KVM keep its address.
class Pc {
 public:
  // How a guest ended its machine; a crash is an error instead.
  enum class End { kPowerOff, kReset };

  static Result<std::unique_ptr<Pc>> build(const vmm::Kvm& kvm, vmm::GuestMemory memory,
                                           PcConfig config);
  Pc(const Pc&) = delete;
  Pc& operator=(const Pc&) = delete;
  ~Pc();

  // Before run(): a device at the next place of its kind, in the order of the ACPI tables.
  Result<> add_virtio(std::unique_ptr<virtio::Backend> backend);
  // Where its registers and interrupt lie must be free. Before run().
  Result<> add_device(std::uint64_t base, std::uint64_t bytes, vmm::Device& device,
                      std::uint32_t interrupt, const vmm::InterruptLine& line);

  // CPU 0 begins here; the others wait until it wakes them.
  Result<> start(const kvm_regs& regs, const kvm_sregs& sregs);

  // From the first instruction, or on after a pause.
  Result<> run();
  // Every CPU at rest between two instructions, with nothing half done, and no device touches
  // memory. What ended the machine meanwhile is told by outcome().
  Result<> pause();

  // Readable from the moment it has ended.
  const Fd& ended() const { return ended_; }
  std::optional<Result<End>> outcome() const;
  // Where each CPU is, in words. Paused or ended.
  std::string describe_cpus() const;

  // Before load(): its CPUs count time as those of the snapshot did. kUnsupported where this host's
  // do not and KVM cannot scale them.
  Result<> match_tsc(const vmm::Kvm& kvm, std::uint64_t khz);
  // All but memory, of a machine at rest.
  Result<PcState> save(const vmm::Kvm& kvm) const;
  // Into a machine with the same CPUs and devices that has not run yet. The state comes from a
  // file: kInvalid or kUnsupported for what cannot be had.
  Result<> load(const PcState& state);
  // Of its CPUs: the host's, unless match_tsc() had it scaled.
  Result<std::uint64_t> tsc_khz() const;
  // At rest.
  Result<ClockSample> sample_clocks() const;

  Serial& serial() { return serial_; }
  Power& power() { return power_; }
  const vmm::GuestMemory& memory() const { return ram_.memory(); }
  const PcPhases& phases() const { return phases_; }
  // Of CLOCK_MONOTONIC; 0 until CPU 0 first needed the host.
  std::uint64_t first_exit_ns() const { return first_exit_ns_; }

 private:
  enum class Wish { kRun, kPause, kQuit };
  struct Cpu {
    vmm::Vcpu vcpu;
    std::thread thread = {};
    bool resting = true;  // under mutex_
  };

  Pc(vmm::Vm vm, vmm::InterruptLine serial_line, vmm::InterruptLine event_line, Fd ended,
     PcConfig config);
  Result<> attach(vmm::GuestMemory memory);
  Result<> connect();
  Result<> add_cpus(const vmm::Kvm& kvm);
  Result<> forget_tsc();
  Result<std::uint64_t> read_tsc() const;  // of CPU 0
  // kvm-clock when CPU 0's counter shows, or did, `tsc`.
  Result<std::uint64_t> clock_at(std::uint64_t tsc) const;
  Result<> set_clock_at(std::uint64_t tsc, std::uint64_t clock_ns);

  void live(Cpu& cpu);      // a CPU's thread
  bool rest(Cpu& cpu);      // until it may run; false: it is over
  Result<> step(Cpu& cpu);  // to its next exit
  Result<> take_exit(Cpu& cpu);
  Result<> finish_access(Cpu& cpu);  // so that nothing is half done
  std::unexpected<Error> crashed(const Cpu& cpu) const;
  void end(Result<End> how);
  void wake_everybody();

  PcConfig config_;
  PcPhases phases_;
  std::optional<std::uint64_t> scaled_tsc_khz_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Wish wish_ = Wish::kPause;
  std::optional<Result<End>> outcome_;
  Fd ended_;
  std::atomic<std::uint64_t> first_exit_ns_ = 0;

  // Destroyed last to first: CPUs, the VM, then what they use.
  vmm::RamSlots ram_{0};
  vmm::Bus ports_;
  vmm::Bus addresses_;
  Serial serial_;
  Power power_;
  Keyboard keyboard_;
  std::vector<std::unique_ptr<virtio::Mmio>> virtio_;
  vmm::Vm vm_;
  std::vector<std::unique_ptr<Cpu>> cpus_;
};

}  // namespace volt::pc
