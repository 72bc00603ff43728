#include "tools/linux_guest.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/balloon.h"
#include "tools/context.h"
#include "tools/guest/init_image.h"
#include "tools/guest_console.h"
#include "tools/host_facts.h"
#include "tools/kernel_store.h"
#include "tools/output.h"
#include "tools/run_report.h"
#include "vmm/identity.h"
#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

Result<Mapping> map_file(const std::string& path) {
  std::error_code unknown;  // then open() knows
  if (std::filesystem::is_directory(path, unknown)) {
    return fail(Code::kInvalid, path + " is a directory");
  }
  const Fd fd = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  const std::uint64_t bytes = VOLT_TRY(file_size(fd, path));
  if (bytes == 0) return fail(Code::kCorrupt, path + ": empty");
  return Mapping::create(bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0, path.c_str());
}

Result<pc::Entry> parse_entry(std::string_view name) {
  if (name == "linux64") return pc::Entry::kLinux64;
  if (name == "pvh") return pc::Entry::kPvh;
  if (name == "bzimage") return pc::Entry::kBzImage;
  return fail(Code::kInvalid, "--boot: linux64, pvh or bzimage, not '" + std::string(name) + "'");
}

}  // namespace

Result<LinuxRequest> linux_request(const Arguments& arguments, bool with_agent) {
  const Kernel kernel = VOLT_TRY(find_kernel(arguments.get("--kernel")));
  LinuxRequest request = {.kernel = VOLT_TRY(map_file(kernel.path))};
  if (arguments.has("--initrd")) request.initrd = VOLT_TRY(map_file(arguments.get("--initrd")));
  pc::LinuxBootConfig& config = request.config;
  config.kernel = request.kernel.bytes();
  if (request.initrd) config.initrd = request.initrd->bytes();
  if (with_agent) {
    config.agent.emplace(pc::GuestAgent{.program = init_image(), .modules = {}});
    for (const std::string& path : kernel.modules) {
      request.modules.push_back(VOLT_TRY(map_file(path)));
      config.agent->modules.push_back(request.modules.back().bytes());
    }
  }
  config.command_line = arguments.get("--cmdline");
  config.ram_bytes = VOLT_TRY(arguments.size("--memory", kDefaultMemory));
  const std::uint64_t cpus = VOLT_TRY(arguments.number("--cpus", 1));
  if (cpus == 0 || cpus > 16) return fail(Code::kInvalid, "--cpus: 1 to 16");
  config.machine.cpus = static_cast<std::uint32_t>(cpus);
  config.machine.cpu_template =
      VOLT_TRY(pc::parse_cpu_template(arguments.get("--cpu-template", "host")));
  config.entry = VOLT_TRY(parse_entry(arguments.get("--boot", "linux64")));
  config.machine.vsock.path = arguments.get("--vsock");
  config.probe_keyboard = arguments.has("--probe-keyboard");
  return request;
}

Result<pc::LinuxBoot> boot_linux(const vmm::Kvm& kvm, const LinuxRequest& request,
                                 vmm::Deadline deadline) {
  pc::LinuxBoot boot = VOLT_TRY(pc::prepare_linux(kvm, request.config));
  progress("booting Linux " + boot.kernel_version + " with " + boot.command_line);
  VOLT_TRY(pc::start_linux(boot));
  if (!request.config.agent) return boot;
  const Result<agent_abi::Ready> ready = boot.machine->agent().wait_until_ready(deadline);
  if (!ready && ready.error().code == Code::kInterrupted) return std::unexpected(ready.error());
  if (!ready) {
    return std::unexpected(with_hosts_part(kvm, boot.machine->explained(ready.error())));
  }
  boot.phases.userspace_us = (vmm::monotonic_clock_ns() - boot.started_ns) / 1000;
  boot.failed_services = ready->failed_services;
  return boot;
}

namespace {

// No command: its console until it ends.
Result<GuestExit> run_console(pc::LinuxBoot& boot, bool console, std::uint64_t grace_s,
                              vmm::Deadline deadline) {
  const Result<Attended> attended = attend(*boot.machine, console, grace_s, deadline);
  if (!attended && attended.error().code == Code::kInterrupted) {
    return std::unexpected(attended.error());
  }
  if (!attended || attended->end == pc::Pc::End::kReset) {
    Error what =
        attended ? Error{Code::kGuestCrashed, 0, "the guest reset itself"} : attended.error();
    return std::unexpected(boot.machine->explained(std::move(what)));
  }
  return GuestExit{.code = 0, .first_byte_ns = attended->first_byte_ns};
}

constexpr std::uint32_t kGraceMs = 1'000;

void wait_for_end(const pc::LinuxMachine& machine, vmm::Deadline deadline) {
  pollfd ended = {machine.pc().ended().get(), POLLIN, 0};
  while (!deadline.passed() && ::poll(&ended, 1, deadline.poll_ms()) == 0) {
  }
}

// The guest is asked to end; one that does not is ended all the same.
void shut_down(pc::LinuxMachine& machine) {
  const vmm::Deadline soon = vmm::Deadline::in_ms(3 * kGraceMs);
  Result<vmm::AgentConnection> agent = machine.agent().connect();
  if (!agent || !vmm::shut_down_guest(*std::move(agent), {.grace_ms = kGraceMs}, soon)) return;
  wait_for_end(machine, soon);
}

Result<GuestExit> run_command(pc::LinuxBoot& boot, const GuestCommand& command,
                              vmm::Deadline deadline) {
  if (boot.failed_services > 0) {
    std::fprintf(stderr, "volt: %u%s\n", boot.failed_services, kServicesFailed);
  }
  vmm::AgentConnection agent = VOLT_TRY(boot.machine->agent().connect());
  const Result<GuestExit> exit = run_in_guest(std::move(agent), command, deadline);
  if (!exit) return std::unexpected(explain_command(*boot.machine, exit.error()));
  shut_down(*boot.machine);
  return exit;
}

}  // namespace

namespace {

// UID[:GID], the group as the user where it is not given.
Result<GuestUser> parse_user(const std::string& text) {
  const char* const end = text.data() + text.size();
  GuestUser user;
  std::from_chars_result read = std::from_chars(text.data(), end, user.uid);
  user.gid = user.uid;
  if (read.ec == std::errc() && read.ptr != end && *read.ptr == ':') {
    read = std::from_chars(read.ptr + 1, end, user.gid);
  }
  if (read.ec == std::errc() && read.ptr == end && user.uid != UINT32_MAX &&
      user.gid != UINT32_MAX) {
    return user;
  }
  return fail(Code::kInvalid, "--user '" + text + "': numbers, UID or UID:GID");
}

// The guest's terminal is like this one, unless the user knows better.
std::vector<std::string> variables_of(const Arguments& arguments) {
  std::vector<std::string> variables;
  const char* const term = std::getenv("TERM");
  if (arguments.has("--tty") && term != nullptr) variables.push_back(std::string("TERM=") + term);
  for (std::string& each : arguments.all("--env")) variables.push_back(std::move(each));
  return variables;
}

}  // namespace

Result<GuestCommand> guest_command(const Arguments& arguments) {
  GuestCommand command = {.words = arguments.positional(),
                          .variables = variables_of(arguments),
                          .directory = arguments.get("--workdir"),
                          .user = {},
                          .tty = arguments.has("--tty")};
  if (arguments.has("--user")) command.user = VOLT_TRY(parse_user(arguments.get("--user")));
  VOLT_TRY(check_command(command));
  return command;
}

Error explain_command(pc::LinuxMachine& machine, Error what) {
  if (what.code != Code::kGuestCrashed) return what;
  wait_for_end(machine, vmm::Deadline::in_ms(kGraceMs));  // it hangs up first
  const auto outcome = machine.pc().outcome();
  if (!outcome || !*outcome) return machine.explained(std::move(what));
  const bool reset = **outcome == pc::Pc::End::kReset;
  what.context =
      std::string("the guest ") + (reset ? "reset itself" : "switched itself off") + kEndedEarly;
  return what;
}

Result<int> run_linux(const Arguments& arguments) {
  const std::uint64_t begun_ns = process_begun_ns();
  const bool command = !arguments.positional().empty();
  const bool console = !command && arguments.has("--console");
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  const vmm::Deadline limit = VOLT_TRY(command || console ? limit_of(arguments) : deadline);
  const std::uint64_t grace_s = VOLT_TRY(grace_seconds(arguments));
  const GuestCommand asked =
      VOLT_TRY(command ? guest_command(arguments) : Result<GuestCommand>(GuestCommand{}));
  LinuxRequest request = VOLT_TRY(linux_request(arguments, command));
  request.config.machine.show_console = console;
  const OpenedKvm opened = VOLT_TRY(open_kvm(begun_ns));
  pc::LinuxBoot boot = VOLT_TRY(boot_linux(opened.kvm, request, deadline));
  const std::optional<Given> given =
      VOLT_TRY(command ? fill_balloon(arguments, *boot.machine, deadline)
                       : ask_for_balloon(arguments, *boot.machine));
  const GuestExit exit = VOLT_TRY(command ? run_command(boot, asked, limit)
                                          : run_console(boot, console, grace_s, limit));
  const nlohmann::ordered_json phases = phases_json(opened, boot.phases_by_now());
  progress("booted: " + phases_line(phases));
  if (arguments.has("--report")) {
    const nlohmann::ordered_json guest = {{"kernel", boot.kernel_version},
                                          {"command_line", boot.command_line},
                                          {"failed_services", boot.failed_services},
                                          {"balloon", balloon_json(given)}};
    VOLT_TRY(write_report(arguments.get("--report"), run_json(guest, phases, opened, exit)));
  }
  return exit.code;
}

}  // namespace volt::tools
