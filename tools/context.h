// What most commands begin with: the store, KVM, and the options they share.
#pragma once

#include <string>

#include "snapshot/sandbox.h"
#include "snapshot/store.h"
#include "tools/options.h"

namespace volt::tools {

// $VOLT_DATA_DIR, else $XDG_DATA_HOME/volt, else ~/.local/share/volt.
Result<snapshot::Store> open_store();

// --timeout SECONDS, from now; 60 seconds where it was not given.
Result<vmm::Deadline> deadline_of(const Arguments& arguments);
// The same for what has its own time: a command, or a console that somebody watches. No limit where
// it was not given.
Result<vmm::Deadline> limit_of(const Arguments& arguments);
inline constexpr Option kTimeoutOption = {"--timeout", "SECONDS",
                                          "how long a guest may take to answer (60)"};

// The guest that --workload, --memory, --working-set and --seed describe.
Result<snapshot::BootRequest> boot_request(const Arguments& arguments);
// What a clone is, its snapshot says.
inline constexpr char kFixedByFrom[] = " is fixed by the snapshot that --from names";
// Of the built-in guest alone.
inline constexpr std::initializer_list<const char*> kMicroOptions = {"--workload", "--working-set",
                                                                     "--seed"};
inline constexpr Option kWorkloadOption = {"--workload", "echo|kv", "what the guest does (kv)"};
inline constexpr std::uint64_t kDefaultMemory = 256 << 20;
inline constexpr Option kMemoryOption = {"--memory", "SIZE",
                                         "the guest's memory, in steps of 2M, at most 16G (256M)"};
inline constexpr Option kWorkingSetOption = {
    "--working-set", "SIZE", "memory kv fills before it is ready, in steps of 4K (64M)"};
inline constexpr Option kSeedOption = {"--seed", "N", "what it fills it from (1)"};

Result<snapshot::BootedSandbox> boot_guest(const vmm::Kvm& kvm, const Arguments& arguments,
                                           vmm::Deadline deadline);

// "sha256:..." of bytes that hold a digest.
std::string digest_text(std::span<const std::byte> digest);

}  // namespace volt::tools
