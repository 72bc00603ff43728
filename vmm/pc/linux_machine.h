// The machine that Linux guests have, booted or restored: a PC with Volt's devices at their places
// (vsock, entropy, balloon, in the order of the ACPI tables and of snapshots), its console, and the
// way to its agent.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string_view>

#include "vmm/pc/agent_link.h"
#include "vmm/pc/console.h"
#include "vmm/pc/pc.h"
#include "vmm/virtio/balloon.h"
#include "vmm/virtio/vsock.h"

namespace volt::pc {

inline constexpr std::uint32_t kLinuxDevices = 3;

struct LinuxMachineConfig {
  std::uint32_t cpus = 1;
  CpuTemplate cpu_template = CpuTemplate::kHost;
  bool show_console = false;  // what the guest says waits to be taken
  virtio::VsockOptions vsock = {};
};

struct LinuxState {
  PcState pc;
  virtio::VsockState vsock;
  virtio::BalloonState balloon;
};

class LinuxMachine {
 public:
  static Result<std::unique_ptr<LinuxMachine>> build(const vmm::Kvm& kvm, vmm::GuestMemory memory,
                                                     const LinuxMachineConfig& config);

  Pc& pc() { return *pc_; }
  const Pc& pc() const { return *pc_; }
  Console& console() { return *console_; }
  AgentLink& agent() { return *agent_; }
  virtio::Balloon& balloon() { return *balloon_; }
  const vmm::GuestMemory& memory() const { return pc_->memory(); }

  // Whether the guest ever gave memory back: pages that are not there are zeros then, whatever the
  // machine was restored from.
  bool gave_memory_back() const { return *gave_back_; }

  // At rest.
  Result<LinuxState> save(const vmm::Kvm& kvm);
  // Into one that has not run: it goes on as a new guest, under `generation`, as `cid`, with its
  // old streams gone.
  Result<> load(const LinuxState& state, std::span<const std::byte, 16> generation,
                std::uint32_t cid);

  // Why the guest did not get where it was to: `what`, the panic, where its CPUs are if it is late,
  // and the console's last lines. Stops it.
  Error explained(Error what);

 private:
  LinuxMachine() = default;
  Result<> add_devices(const virtio::VsockOptions& options);

  // Destroyed last to first: what uses the devices, the machine with them, the console it writes.
  std::unique_ptr<std::atomic<bool>> gave_back_ = std::make_unique<std::atomic<bool>>(false);
  std::unique_ptr<Console> console_;
  std::unique_ptr<Pc> pc_;
  virtio::Vsock* vsock_ = nullptr;
  virtio::Balloon* balloon_ = nullptr;
  std::unique_ptr<AgentLink> agent_;
};

}  // namespace volt::pc
