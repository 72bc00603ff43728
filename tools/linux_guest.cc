#include "tools/linux_guest.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include "tools/context.h"
#include "tools/guest/init_image.h"
#include "tools/kernel_store.h"
#include "tools/output.h"
#include "vmm/identity.h"
#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

Result<Mapping> map_file(const std::string& path) {
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

std::string phases_text(const pc::LinuxBootPhases& phases) {
  const std::pair<const char*, std::uint64_t> parts[] = {
      {"kernel", phases.kernel_us},      {"load", phases.load_us},
      {"vm", phases.pc.vm_us},           {"memory", phases.pc.memory_us},
      {"devices", phases.pc.devices_us}, {"cpuid", phases.pc.cpuid_us},
      {"cpus", phases.pc.cpus_us},       {"first exit", phases.first_exit_us},
      {"userspace", phases.userspace_us}};
  std::string text = "booted; in us:";
  for (const auto& [name, us] : parts) text += std::string(" ") + name + " " + std::to_string(us);
  return text;
}

// Bytes to stdout as they come.
Result<> show(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return sys_error("write", "stdout");
    if (written > 0) bytes.remove_prefix(static_cast<std::size_t>(written));
    VOLT_TRY(vmm::check_stop());
  }
  return {};
}

// What is typed goes to the guest. False when nothing more will come.
bool type(pc::Serial& serial) {
  std::byte typed[256];
  const ssize_t got = ::read(STDIN_FILENO, typed, sizeof typed);
  if (got <= 0) return got < 0 && errno == EINTR;
  serial.type(std::span(typed).first(static_cast<std::size_t>(got)));
  return true;
}

// Until the machine ends, its console on stdin and stdout if it is shown.
Result<pc::Pc::End> attend(pc::LinuxMachine& machine, bool console, vmm::Deadline deadline) {
  bool typing = console;
  for (;;) {
    pollfd watched[] = {{machine.pc().ended().get(), POLLIN, 0},
                        {machine.console().event().get(), POLLIN, 0},
                        {typing ? STDIN_FILENO : -1, POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), deadline.poll_ms());
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    VOLT_TRY(vmm::check_stop());
    if (console) VOLT_TRY(show(machine.console().take()));
    if (const auto outcome = machine.pc().outcome()) return *outcome;
    if (ready > 0 && watched[2].revents != 0) typing = type(machine.pc().serial());
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not end in time");
  }
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
  if (!ready) return std::unexpected(boot.machine->explained(ready.error()));
  boot.phases.userspace_us = (vmm::monotonic_clock_ns() - boot.started_ns) / 1000;
  boot.phases.first_exit_us = (boot.machine->pc().first_exit_ns() - boot.started_ns) / 1000;
  return boot;
}

namespace {

// No command: its console until it ends.
Result<int> run_console(const vmm::Kvm& kvm, LinuxRequest& request, const Arguments& arguments,
                        vmm::Deadline deadline) {
  const bool console = arguments.has("--console");
  request.config.machine.show_console = console;
  const pc::LinuxBoot boot = VOLT_TRY(boot_linux(kvm, request, deadline));
  const Result<pc::Pc::End> end = attend(*boot.machine, console, deadline);
  if (!end && end.error().code == Code::kInterrupted) return std::unexpected(end.error());
  if (!end || *end == pc::Pc::End::kReset) {
    Error what = end ? Error{Code::kGuestCrashed, 0, "the guest reset itself"} : end.error();
    return std::unexpected(boot.machine->explained(std::move(what)));
  }
  return 0;
}

// The guest is asked to end; one that does not is ended all the same.
void shut_down(pc::LinuxMachine& machine) {
  constexpr std::uint32_t kGraceMs = 1'000;
  const vmm::Deadline soon = vmm::Deadline::in_ms(3 * kGraceMs);
  Result<vmm::AgentConnection> agent = machine.agent().connect();
  if (!agent || !vmm::shut_down_guest(*std::move(agent), {.grace_ms = kGraceMs}, soon)) return;
  pollfd ended = {machine.pc().ended().get(), POLLIN, 0};
  ::poll(&ended, 1, soon.poll_ms());
}

}  // namespace

GuestCommand guest_command(const Arguments& arguments) {
  return {.words = arguments.positional(),
          .variables = arguments.all("--env"),
          .directory = arguments.get("--workdir"),
          .tty = arguments.has("--tty")};
}

Result<int> run_linux(const Arguments& arguments) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  const bool command = !arguments.positional().empty();
  LinuxRequest request = VOLT_TRY(linux_request(arguments, command));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  if (!command) return run_console(kvm, request, arguments, deadline);
  const pc::LinuxBoot boot = VOLT_TRY(boot_linux(kvm, request, deadline));
  vmm::AgentConnection agent = VOLT_TRY(boot.machine->agent().connect());
  const Result<GuestExit> exit = run_in_guest(std::move(agent), guest_command(arguments), deadline);
  if (!exit) return std::unexpected(exit.error());
  shut_down(*boot.machine);
  progress(phases_text(boot.phases));
  return exit->code;
}

}  // namespace volt::tools
