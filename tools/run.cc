// volt run: boots a guest, calls it once, prints, ends.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/balloon.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/guest_call.h"
#include "tools/guest_console.h"
#include "tools/linux_guest.h"
#include "tools/linux_snapshot.h"
#include "tools/output.h"
#include "tools/restore_report.h"
#include "tools/run_report.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

constexpr Option kRunTimeoutOption = {
    "--timeout", "SECONDS", "how long a guest may take (60; a command or console: no limit)"};
constexpr Option kRunOptions[] = {
    kWorkloadOption,    kMemoryOption,
    kWorkingSetOption,  kSeedOption,
    kRunTimeoutOption,  kKernelOption,
    kInitrdOption,      kCmdlineOption,
    kCpusOption,        kCpuTemplateOption,
    kBootOption,        kProbeKeyboardOption,
    kConsoleOption,     {"--from", "REF", "run in a clone of this snapshot of a Linux guest"},
    kHostnameOption,    kVsockOption,
    kEnvOption,         kWorkdirOption,
    kUserOption,        kTtyOption,
    kVerifyFirstOption, kReportOption,
    kBalloonOption,     kLoaderOption,
    kHotSetOption,      kPagerOption,
    kIsolateOption,     kHandlerOption,
    kGraceOption,
};

nlohmann::ordered_json phases_json(const vmm::BootPhases& phases) {
  return {{"vm", phases.vm_us},
          {"memory", phases.memory_us},
          {"state", phases.state_us},
          {"run", phases.run_us},
          {"total", phases.total_us()}};
}

// Before a guest does anything that nobody would hear of.
Result<> check_report(const std::string& path) {
  if (path.empty()) return fail(Code::kInvalid, "--report: a path is missing");
  std::error_code unknown;  // then access() knows
  if (std::filesystem::is_directory(path, unknown)) {
    return fail(Code::kInvalid, path + " is a directory");
  }
  if (::access(path.c_str(), W_OK) == 0) return {};
  const std::string parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent;
  if (errno == ENOENT && ::access(directory.c_str(), W_OK | X_OK) == 0) return {};
  return fail(Code::kInvalid, "--report " + path + ": " + std::strerror(errno));
}

// Options that would change nothing are mistakes.
Result<> check_options(const Arguments& arguments) {
  const bool restores = arguments.has("--from"), boots = arguments.has("--kernel");
  const bool command = !arguments.positional().empty();
  if (restores) {
    VOLT_TRY(refuse({"--kernel", "--memory"}, arguments, kFixedByFrom));
    VOLT_TRY(refuse(kMicroOptions, arguments, kFixedByFrom));
    VOLT_TRY(refuse(kBootOptions, arguments, kFixedByFrom));
  } else {
    VOLT_TRY(refuse({"--hostname", "--loader", "--verify", "--hotset", "--pager", "--isolate-image",
                     "--uffd-handler"},
                    arguments, ": for a Linux guest that is restored (--from)"));
  }
  if (!(boots || restores) || command) {
    VOLT_TRY(refuse({"--console"}, arguments, ": for a Linux guest that runs no command"));
  }
  if (!boots || command) {
    VOLT_TRY(refuse({"--grace"}, arguments,
                    ": for a Linux guest that is booted and runs no command (--kernel)"));
  }
  if (boots) VOLT_TRY(refuse(kMicroOptions, arguments, ": for the built-in guest, not --kernel"));
  if ((boots || restores) && !command) {
    VOLT_TRY(refuse({"--env", "--workdir", "--user", "--tty"}, arguments,
                    ": for a command: -- COMMAND"));
  }
  if (arguments.has("--vsock") && arguments.get("--vsock").empty()) {
    return fail(Code::kInvalid, "--vsock: a path is missing");
  }
  if (restores || boots) return {};
  VOLT_TRY(refuse(kBootOptions, arguments, ": for Linux guests (--kernel)"));
  return refuse({"--report", "--balloon", "--vsock", "--env", "--workdir", "--user", "--tty"},
                arguments, ": for Linux guests (--kernel or --from)");
}

Result<int> run_micro(const Arguments& arguments) {
  std::vector<std::string> words = arguments.positional();
  if (words.empty()) words = {"health"};
  const vmm::Call call = VOLT_TRY(parse_call(words));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  VOLT_TRY(boot_request(arguments));  // what is wrong with it is said before KVM is asked for
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  const snapshot::BootedSandbox booted = VOLT_TRY(boot_guest(kvm, arguments, deadline));
  progress("booted in " + std::to_string(booted.phases.total_us()) + " us");
  const vmm::Reply reply =
      VOLT_TRY_IN(words[0], booted.sandbox->call(call, deadline, print_guest_log()));
  if (!arguments.json()) {
    VOLT_TRY(print_text(reply_text(call, reply)));
    return 0;
  }
  VOLT_TRY(print_json({{"schema", "volt.run/v1"},
                       {"boot_us", phases_json(booted.phases)},
                       {"reply", reply_json(call, reply)}}));
  return 0;
}

// An exit code alone may be the command's or ours; the report tells.
Result<int> run_guest(const Arguments& arguments) {
  VOLT_TRY(check_options(arguments));
  const std::string report = arguments.get("--report");
  if (arguments.has("--report")) VOLT_TRY(check_report(report));
  if (!arguments.has("--from") && !arguments.has("--kernel")) return run_micro(arguments);
  const Result<int> code = arguments.has("--from") ? run_from(arguments) : run_linux(arguments);
  // One without a command that was stopped has said all already.
  const bool over = !code && arguments.positional().empty() && !vmm::check_stop();
  if (!code && !over && arguments.has("--report")) {
    const nlohmann::ordered_json why = error_json(code.error(), kRun.path, arguments);
    VOLT_TRY(write_report(report, {{"schema", "volt.run/v1"}, {"error", why}}));
  }
  return code;
}

const std::string kRunHelp =
    std::string(
        "With --kernel or --from the guest is Linux, and what follows -- runs in it with this\n"
        "command's input, output, signals and exit code (126: not executable, 127: not found).\n"
        "Then the guest ends: one that was booted shuts down, a clone just stops. With --tty the\n"
        "keys Enter ~ . end it at any time. Without a command it runs until it ends by itself or\n"
        "a signal stops this one: --console shows it, --vsock PATH is the way to what listens in\n"
        "it (connect to PATH, say `CONNECT PORT`).\n"
        "A failure that is not the command's leaves {\"error\": ...} in the --report.\n\n") +
    kPhasesHelp + "\n" + kFunctionHelp;

}  // namespace

const Command kRun = {.path = "run",
                      .operands = "[FUNCTION ARGS] | -- COMMAND",
                      .summary = "boot a guest, run one function or command in it, end",
                      .details = kRunHelp.c_str(),
                      .example = "volt run --from py -- date",
                      .options = kRunOptions,
                      .least = 0,
                      .most = -1,
                      .run = run_guest};

}  // namespace volt::tools
