#include "tools/linux_snapshot.h"

#include <nlohmann/json.hpp>

#include "tools/balloon.h"
#include "tools/context.h"
#include "tools/guest_command.h"
#include "tools/guest_console.h"
#include "tools/host_facts.h"
#include "tools/linux_guest.h"
#include "tools/output.h"
#include "tools/restore_report.h"
#include "tools/run_report.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

nlohmann::ordered_json report_json(const snapshot::Reference& reference,
                                   const snapshot::Restored& restored,
                                   const agent_abi::Resumed& resumed, const OpenedKvm& opened,
                                   const std::optional<Given>& given,
                                   const std::optional<GuestExit>& exit) {
  return run_json({{"snapshot", reference.text()},
                   {"loader", loader_json(restored.loader)},
                   {"hot_set", hot_set_json(restored)},
                   {"clock_step_ns", resumed.clock_step_ns},
                   {"resumed", resumed.resumed},
                   {"balloon", balloon_json(given)}},
                  phases_json(opened, restored.phases), opened, exit);
}

Result<snapshot::Restored> restore_frozen(const vmm::Kvm& kvm, const snapshot::Store& store,
                                          const snapshot::Reference& reference,
                                          snapshot::RestoreOptions options,
                                          const Arguments& arguments) {
  if (!options.linux_guest) options.linux_guest.emplace();
  options.linux_guest->vsock.path = arguments.get("--vsock");
  return snapshot::restore(kvm, store, reference, options);
}

Result<agent_abi::Resumed> resume(const vmm::Kvm& kvm, snapshot::Restored& restored,
                                  const Arguments& arguments, vmm::Deadline deadline) {
  auto resumed = snapshot::resume_linux(restored, arguments.get("--hostname"), deadline);
  if (resumed) return resumed;
  return std::unexpected(with_hosts_part(kvm, std::move(resumed).error()));
}

}  // namespace

Result<bool> is_linux_snapshot(const snapshot::Store& store, const snapshot::Reference& reference) {
  const snapshot::OpenedSnapshot opened = VOLT_TRY(
      snapshot::OpenedSnapshot::open(store, reference, snapshot::OpenedSnapshot::Index::kHead));
  return opened.manifest().guest().kind() == snapshot::kLinuxKind;
}

Result<snapshot::Restored> restore_linux(const vmm::Kvm& kvm, const snapshot::Store& store,
                                         const snapshot::Reference& reference,
                                         const Arguments& arguments, vmm::Deadline deadline) {
  // What this one touches is not what later ones will, so it records nothing.
  snapshot::RestoreOptions options = VOLT_TRY(restore_options(arguments));
  options.hot_set = snapshot::HotSetMode::kOff;
  snapshot::Restored restored = VOLT_TRY(restore_frozen(kvm, store, reference, options, arguments));
  VOLT_TRY(resume(kvm, restored, arguments, deadline));
  return restored;
}

Result<> run_after(snapshot::Sandbox& sandbox, const std::string& command, vmm::Deadline deadline) {
  vmm::AgentConnection agent = VOLT_TRY(sandbox.linux_machine()->agent().connect());
  const GuestCommand shell = {.words = {"/bin/sh", "-c", command}, .alone = true};
  const Result<GuestExit> exit = run_in_guest(std::move(agent), shell, deadline);
  if (!exit) {
    return std::unexpected(
        sandbox.explained(explain_command(*sandbox.linux_machine(), exit.error())));
  }
  VOLT_TRY(vmm::check_stop());
  if (exit->code == 0) return {};
  return fail(Code::kGuestCrashed, kEndedWithCode + std::to_string(exit->code));
}

namespace {

// Until it ends by itself, or a signal stops this process.
Result<> attend_clone(snapshot::Sandbox& sandbox, bool console, vmm::Deadline limit) {
  pc::LinuxMachine& machine = *sandbox.linux_machine();
  const Result<Attended> attended = attend(machine, console, 0, limit);
  if (!attended && attended.error().code == Code::kInterrupted) {
    return std::unexpected(attended.error());
  }
  if (!attended) return std::unexpected(sandbox.explained(machine.explained(attended.error())));
  if (attended->end == pc::Pc::End::kPowerOff) return {};
  return std::unexpected(machine.explained({Code::kGuestCrashed, 0, "the guest reset itself"}));
}

// What `volt run --from` is to do with the clone.
struct CloneWork {
  std::optional<GuestCommand> command;
  bool console = false;
  vmm::Deadline deadline;  // of its restore
  vmm::Deadline limit;
};

Result<CloneWork> clone_work(const Arguments& arguments) {
  CloneWork work;
  if (!arguments.positional().empty()) work.command = VOLT_TRY(guest_command(arguments));
  work.console = arguments.has("--console");
  work.deadline = VOLT_TRY(deadline_of(arguments));
  work.limit = VOLT_TRY(limit_of(arguments));
  return work;
}

// Whoever runs on for hours touches more than what comes first.
Result<snapshot::RestoreOptions> clone_options(const Arguments& arguments, const CloneWork& work) {
  snapshot::RestoreOptions options = VOLT_TRY(restore_options(arguments));
  options.linux_guest.emplace();
  options.linux_guest->show_console = work.console;
  if (arguments.has("--verify")) {
    options.verify = snapshot::RestoreOptions::Verify::kEverythingFirst;
  }
  if (work.command) return options;
  if (options.hot_set == snapshot::HotSetMode::kRecord) {
    return fail(Code::kInvalid, "--hotset record: for a command: -- COMMAND");
  }
  if (options.hot_set == snapshot::HotSetMode::kUse) {
    options.hot_set = snapshot::HotSetMode::kReplay;
  }
  return options;
}

}  // namespace

Result<int> run_from(const Arguments& arguments) {
  const std::uint64_t begun_ns = process_begun_ns();
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.get("--from")));
  const CloneWork work = VOLT_TRY(clone_work(arguments));
  const snapshot::Store store = VOLT_TRY(restore_store(arguments));
  const OpenedKvm opened = VOLT_TRY(open_kvm(begun_ns));
  snapshot::RestoreOptions options = VOLT_TRY(clone_options(arguments, work));
  const snapshot::HotSetMode hot_set = options.hot_set;
  snapshot::Restored restored =
      VOLT_TRY(restore_frozen(opened.kvm, store, reference, std::move(options), arguments));
  const agent_abi::Resumed resumed =
      VOLT_TRY(resume(opened.kvm, restored, arguments, work.deadline));
  snapshot::Sandbox& sandbox = *restored.sandbox;
  pc::LinuxMachine& machine = *sandbox.linux_machine();
  const std::optional<Given> given = VOLT_TRY(fill_balloon(arguments, machine, work.deadline));
  const auto report = [&](const std::optional<GuestExit>& exit) -> Result<> {
    progress("restored: " + phases_line(phases_json(opened, restored.phases)));
    if (!arguments.has("--report")) return {};
    return write_report(arguments.get("--report"),
                        report_json(reference, restored, resumed, opened, given, exit));
  };
  if (!work.command) {
    VOLT_TRY(report(std::nullopt));
    progress("it runs until it ends or a signal stops this command");
    VOLT_TRY(attend_clone(sandbox, work.console, work.limit));
    return 0;
  }
  vmm::AgentConnection agent = VOLT_TRY(machine.agent().connect());
  const Result<GuestExit> exit = run_in_guest(std::move(agent), *work.command, work.limit);
  if (!exit) {
    return std::unexpected(sandbox.explained(explain_command(machine, exit.error())));
  }
  VOLT_TRY(keep_recording(store, restored, hot_set));
  VOLT_TRY(report(*exit));
  // The kernel takes the VM down with the process; waiting for it would only cost time. It leaves
  // the socket's name, though.
  if (!arguments.has("--vsock")) {
    [[maybe_unused]] const snapshot::Sandbox* left = restored.sandbox.release();
  }
  return exit->code;
}

}  // namespace volt::tools
