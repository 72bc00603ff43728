// How a Linux guest came to be, booted or restored: its phases in the order in which they were, as
// `volt run --report` writes them and stderr tells them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "snapshot/restore.h"
#include "tools/guest_command.h"
#include "tools/options.h"
#include "vmm/kvm.h"
#include "vmm/pc/linux_boot.h"

namespace volt::tools {

inline constexpr Option kReportOption = {"--report", "FILE",
                                         "write what was done and how long it took, as JSON"};
// What its phases are, for those who ask for help.
inline constexpr char kPhasesHelp[] =
    "--report tells the phases in microseconds; VOLT_PROGRESS=1 does so on stderr. process: from\n"
    "this process's start (as old as the CPU time that it has used when it begins its work; the\n"
    "kernel's own note of it is in steps of 10 ms) to KVM; kvm: opening it, and what every VM\n"
    "asks of it; then how the guest was made. Of a boot, first_exit and userspace both count from\n"
    "the first instruction: to its first need of the host, and to its agent being ready (null\n"
    "without one). first_byte_us is from the process's start to the first output; 0 if none.\n";

// When this process began, of CLOCK_MONOTONIC, if it has only computed so far: for the first line
// of a command.
std::uint64_t process_begun_ns();

// /dev/kvm, and what came before it.
struct OpenedKvm {
  vmm::Kvm kvm;
  std::uint64_t begun_ns;    // what the process began at, of CLOCK_MONOTONIC
  std::uint64_t process_ns;  // from there to KVM
  std::uint64_t kvm_ns;
};
Result<OpenedKvm> open_kvm(std::uint64_t begun_ns);

// {process, kvm, ..., total}, in microseconds.
nlohmann::ordered_json phases_json(const OpenedKvm& opened, const pc::LinuxBootPhases& phases);
nlohmann::ordered_json phases_json(const OpenedKvm& opened, const snapshot::RestorePhases& phases);
// "process 812.4, kvm 31.0, ..."
std::string phases_line(const nlohmann::ordered_json& phases);

// {schema, the guest's own words, exit_code, phases_us, first_byte_us}; of one that runs on,
// without a code or a first byte.
nlohmann::ordered_json run_json(const nlohmann::ordered_json& guest, nlohmann::ordered_json phases,
                                const OpenedKvm& opened, const std::optional<GuestExit>& exit);

}  // namespace volt::tools
