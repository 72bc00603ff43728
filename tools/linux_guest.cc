#include "tools/linux_guest.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "tools/context.h"
#include "tools/output.h"
#include "tools/size.h"
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

nlohmann::ordered_json phases_json(const pc::LinuxBootPhases& phases) {
  return {{"kernel", phases.kernel_us},      {"load", phases.load_us},
          {"vm", phases.pc.vm_us},           {"memory", phases.pc.memory_us},
          {"devices", phases.pc.devices_us}, {"cpuid", phases.pc.cpuid_us},
          {"cpus", phases.pc.cpus_us},       {"first_exit", phases.first_exit_us}};
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
    pollfd watched[] = {{machine.pc->ended().get(), POLLIN, 0},
                        {machine.console->event().get(), POLLIN, 0},
                        {typing ? STDIN_FILENO : -1, POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), deadline.poll_ms());
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    VOLT_TRY(vmm::check_stop());
    if (console) VOLT_TRY(show(machine.console->take()));
    if (const auto outcome = machine.pc->outcome()) return *outcome;
    if (ready > 0 && watched[2].revents != 0) typing = type(machine.pc->serial());
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not end in time");
  }
}

}  // namespace

Result<LinuxRequest> linux_request(const Arguments& arguments) {
  LinuxRequest request = {.kernel = VOLT_TRY(map_file(arguments.get("--kernel")))};
  if (arguments.has("--initrd")) request.initrd = VOLT_TRY(map_file(arguments.get("--initrd")));
  pc::LinuxBootConfig& config = request.config;
  config.kernel = request.kernel.bytes();
  if (request.initrd) config.initrd = request.initrd->bytes();
  config.command_line = arguments.get("--cmdline");
  config.ram_bytes = VOLT_TRY(arguments.size("--memory", kDefaultMemory));
  const std::uint64_t cpus = VOLT_TRY(arguments.number("--cpus", 1));
  if (cpus == 0 || cpus > 16) return fail(Code::kInvalid, "--cpus: 1 to 16");
  config.cpus = static_cast<std::uint32_t>(cpus);
  config.cpu_template = VOLT_TRY(pc::parse_cpu_template(arguments.get("--cpu-template", "host")));
  config.entry = VOLT_TRY(parse_entry(arguments.get("--boot", "linux64")));
  config.probe_keyboard = arguments.has("--probe-keyboard");
  return request;
}

Result<int> run_linux(const Arguments& arguments) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  LinuxRequest request = VOLT_TRY(linux_request(arguments));
  const bool console = arguments.has("--console");
  request.config.show_console = console;
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  pc::LinuxMachine machine = VOLT_TRY(pc::prepare_linux(kvm, request.config));
  progress("booting Linux " + machine.kernel_version + " with " + machine.command_line);
  VOLT_TRY(pc::start_linux(machine));
  const Result<pc::Pc::End> end = attend(machine, console, deadline);
  if (!end && end.error().code == Code::kInterrupted) return std::unexpected(end.error());
  if (!end || *end == pc::Pc::End::kReset) {
    Error what = end ? Error{Code::kGuestCrashed, 0, "the guest reset itself"} : end.error();
    return std::unexpected(pc::failed_boot(machine, std::move(what)));
  }
  machine.phases.first_exit_us = (machine.pc->first_exit_ns() - machine.started_ns) / 1000;
  if (arguments.json()) {
    VOLT_TRY(print_json({{"schema", "volt.run.linux/v1"},
                         {"kernel", machine.kernel_version},
                         {"boot_us", phases_json(machine.phases)}}));
  }
  return 0;
}

}  // namespace volt::tools
