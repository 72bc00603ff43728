// Snapshots of Linux guests, for the commands that make them and run from them.
#pragma once

#include <memory>
#include <string>

#include "snapshot/linux_guest.h"
#include "tools/options.h"

namespace volt::tools {

inline constexpr Option kHostnameOption = {"--hostname", "NAME",
                                           "what a restored guest is called (as before)"};
inline constexpr Option kVerifyFirstOption = {
    "--verify", "", "check every page of the snapshot before the guest runs"};
inline constexpr Option kVsockOption = {
    "--vsock", "PATH", "a socket for streams into the guest: CONNECT PORT, as Firecracker's"};

Result<bool> is_linux_snapshot(const snapshot::Store& store, const snapshot::Reference& reference);

// A guest that runs, knows who it is and what time it is.
Result<snapshot::Restored> restore_linux(const vmm::Kvm& kvm, const snapshot::Store& store,
                                         const snapshot::Reference& reference,
                                         const Arguments& arguments, vmm::Deadline deadline);

// A shell command in the guest, whose output is talk (stderr). kGuestCrashed if it fails.
Result<> run_after(snapshot::Sandbox& sandbox, const std::string& command, vmm::Deadline deadline);

// `volt run --from`.
Result<int> run_from(const Arguments& arguments);

}  // namespace volt::tools
