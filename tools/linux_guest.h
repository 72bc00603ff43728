// The Linux guest that options describe, for the commands that boot one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/guest_command.h"
#include "tools/options.h"
#include "vmm/os/mapping.h"
#include "vmm/pc/linux_boot.h"

namespace volt::tools {

inline constexpr Option kKernelOption = {
    "--kernel", "K", "boot Linux: a kernel of `volt kernel ls`, or a file's path"};
inline constexpr Option kInitrdOption = {"--initrd", "FILE", "its initial RAM disk"};
inline constexpr Option kCmdlineOption = {"--cmdline", "WORDS",
                                          "put behind Volt's own words on its command line"};
inline constexpr Option kCpusOption = {"--cpus", "N", "how many CPUs it has, at most 16 (1)"};
inline constexpr Option kCpuTemplateOption = {"--cpu-template", "host|portable",
                                              "what its CPUs say they are (host)"};
inline constexpr Option kBootOption = {
    "--boot", "linux64|pvh|bzimage", "how its kernel is entered; bzimage unpacks itself (linux64)"};
inline constexpr Option kProbeKeyboardOption = {
    "--probe-keyboard", "", "tell it that there is an i8042, which it then looks for"};

// What goes with --kernel alone.
inline constexpr std::initializer_list<const char*> kBootOptions = {
    "--initrd", "--cmdline", "--cpus", "--cpu-template", "--boot", "--probe-keyboard"};

// The files stay mapped as long as it lives.
struct LinuxRequest {
  Mapping kernel;
  std::optional<Mapping> initrd;
  std::vector<Mapping> modules;
  pc::LinuxBootConfig config;
};
Result<LinuxRequest> linux_request(const Arguments& arguments, bool with_agent);

inline constexpr char kServicesFailed[] = " of the guest's services failed before it was ready";
// Up to where its agent says that it is ready, or, without one, to its first instruction.
Result<pc::LinuxBoot> boot_linux(const vmm::Kvm& kvm, const LinuxRequest& request,
                                 vmm::Deadline deadline);

inline constexpr Option kEnvOption = {"--env", "NAME=VALUE", "for the command; may be repeated"};
inline constexpr Option kWorkdirOption = {"--workdir", "DIR", "where the command runs (/)"};
inline constexpr Option kTtyOption = {"--tty", "", "the command has a terminal: yours"};
inline constexpr Option kUserOption = {"--user", "UID[:GID]", "whom the command runs as (0:0)"};
// Before a guest is there for it: kInvalid for what none can run.
Result<GuestCommand> guest_command(const Arguments& arguments);
// Why there is no exit code: by the machine where the guest is to blame. One that takes its time is
// not.
Error explain_command(pc::LinuxMachine& machine, Error what);
inline constexpr char kEndedEarly[] = " before the command was done";
inline constexpr char kEndedWithCode[] = "it ended with code ";  // a command of --after

// `volt run --kernel`.
Result<int> run_linux(const Arguments& arguments);

}  // namespace volt::tools
