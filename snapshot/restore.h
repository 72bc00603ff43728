// A new sandbox from a snapshot.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "snapshot/loader.h"
#include "snapshot/sandbox.h"
#include "snapshot/store.h"

namespace volt::snapshot {

// Nanoseconds that each step took.
struct RestorePhases {
  std::uint64_t resolve_ns = 0;     // reference -> files opened and checked, host compatible
  std::uint64_t vm_ns = 0;          // VM, exchange window, vCPUs
  std::uint64_t memory_ns = 0;      // the loader
  std::uint64_t slots_ns = 0;       // KVM's memory slots
  std::uint64_t state_ns = 0;       // CPUID, registers
  std::uint64_t identity_ns = 0;    // generation, entropy, clocks
  std::uint64_t first_exit_ns = 0;  // KVM_RUN to the guest's first answer, checked
  std::uint64_t total_ns() const {
    return resolve_ns + vm_ns + memory_ns + slots_ns + state_ns + identity_ns + first_exit_ns;
  }
};

// How a refusal ends where the guest is not of the kind that was asked for.
inline constexpr char kIsLinux[] = "it is a Linux guest, which has no functions to call";
inline constexpr char kIsMicro[] = "it is a micro guest, which runs no commands";

struct RestoreOptions {
  Loader loader = Loader::kAuto;
  // What the pages are checked against before the guest runs; what happens without it depends on
  // the loader (see snapshot/README.md).
  enum class Verify { kAsLoaderDoes, kEverythingFirst };
  Verify verify = Verify::kAsLoaderDoes;
  HotSetMode hot_set = HotSetMode::kOff;
  uffd::FaultOptions faults = {};
  // The socket of a `volt pager` that serves the memory; the store is not used then, and each unit
  // is verified by the pager. Only with loader auto or uffd.
  std::string pager = {};
  // A page is seen only when the pager says so: for guests that do not trust each other.
  bool isolate_image = false;
  // The socket of a handler written for Firecracker, which fills anonymous memory.
  std::string uffd_handler = {};
  // For a snapshot of a Linux guest, which is refused without it: its machine, but for the CPUs.
  std::optional<pc::LinuxMachineConfig> linux_guest = {};
};

struct Restored {
  std::unique_ptr<Sandbox> sandbox;  // has not run yet; a Linux guest's: see linux_guest.h
  RestorePhases phases;
  ChosenLoader loader;
  HotSetPlan hot_set;
};

Result<Restored> restore(const vmm::Kvm& kvm, const Store& store, const Reference& reference,
                         const RestoreOptions& options);

// Makes the guest answer `call` as the first thing it does, and completes the phases.
Result<vmm::Reply> first_call(Restored& restored, const vmm::Call& call, vmm::Deadline deadline,
                              const vmm::HostServices& services);

}  // namespace volt::snapshot
