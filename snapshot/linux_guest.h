// What a Linux guest needs besides what every sandbox does: its agent is told before a capture and
// after a restore, since nothing of the guest's own may run while it does not know who it is and
// what time it is.
#pragma once

#include "snapshot/capture.h"
#include "snapshot/restore.h"
#include "vmm/pc/linux_boot.h"

namespace volt::snapshot {

inline constexpr char kLinuxKind[] = "linux";

// A guest that was booted and is ready.
std::unique_ptr<Sandbox> linux_sandbox(pc::LinuxBoot boot, std::span<const std::byte> kernel);

// For restore(): the state into a machine that has not run, under a new generation.
Result<> load_linux(Sandbox& sandbox, const formats::MachineState& state);

// Runs it, and returns once its agent has reseeded the kernel's generator, stepped the clock and
// set the hostname (an empty one stays as it was), and only then thawed the guest's processes. If
// any of that fails the guest is no use: destroy it. Completes the phases.
Result<agent_abi::Resumed> resume_linux(Restored& restored, const std::string& hostname,
                                        vmm::Deadline deadline);

// Freezes the guest's processes, brings it to rest, captures it. It stays at rest, whatever
// happens.
Result<Captured> capture_linux(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                               const Reference& reference, const CaptureOptions& options,
                               vmm::Deadline deadline);

}  // namespace volt::snapshot
