#include "tools/bench_linux_guest.h"

#include <poll.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tools/context.h"
#include "tools/page_cache.h"
#include "vmm/identity.h"

namespace volt::tools {
namespace {

// What a boot reads.
std::vector<std::string> boot_files(const LinuxBench& bench) {
  std::vector<std::string> paths = bench.plan.kernel.modules;
  paths.push_back(bench.plan.kernel.path);
  paths.push_back(bench.arguments.get("--initrd"));
  return paths;
}

// Until the machine has ended, and how.
Result<pc::Pc::End> await_end(pc::LinuxMachine& machine, vmm::Deadline deadline) {
  for (;;) {
    if (const auto outcome = machine.pc().outcome()) return *outcome;
    VOLT_TRY(vmm::check_stop());
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not end in time");
    pollfd ended = {machine.pc().ended().get(), POLLIN, 0};
    if (::poll(&ended, 1, deadline.poll_ms()) < 0 && errno != EINTR) return sys_error("poll");
  }
}

Result<> shut_down_timed(pc::LinuxMachine& machine, vmm::Deadline deadline) {
  constexpr std::uint32_t kGraceMs = 1'000;
  vmm::AgentConnection agent = VOLT_TRY(machine.agent().connect());
  VOLT_TRY(vmm::shut_down_guest(std::move(agent), {.grace_ms = kGraceMs}, deadline));
  const pc::Pc::End end = VOLT_TRY(await_end(machine, deadline));
  if (end == pc::Pc::End::kPowerOff) return {};
  return fail(Code::kGuestCrashed, "the guest reset itself instead of powering off");
}

// Its output, collected only for who must be told why it failed.
Result<CommandTimes> follow(vmm::AgentExec& exec, vmm::Deadline deadline, int& code,
                            std::string& errors) {
  CommandTimes times;
  for (;;) {
    const vmm::AgentExec::Event event = VOLT_TRY(exec.next(deadline));
    if (const auto* output = std::get_if<vmm::AgentOutput>(&event)) {
      if (output->is_error) {
        errors.append(reinterpret_cast<const char*>(output->bytes.data()),
                      std::min<std::size_t>(output->bytes.size(), 200));
      } else if (times.first_byte_ns == 0) {
        times.first_byte_ns = vmm::monotonic_clock_ns();
      }
    } else if (const auto* exit = std::get_if<vmm::AgentExit>(&event)) {
      times.exit_ns = vmm::monotonic_clock_ns();
      code = exit->shell_code();
      return times;
    }
  }
}

}  // namespace

Result<> prepare_page_cache(LinuxBench& bench, PageCache cache) {
  if (cache == PageCache::kWarm) return {};
  std::uint64_t bytes = 0, stayed = 0;
  for (const std::string& path : boot_files(bench)) {
    const DroppedFile dropped = VOLT_TRY(drop_from_page_cache(path));
    bytes += dropped.bytes;
    stayed += dropped.stayed_bytes;
  }
  bench.report.boot_file_bytes = bytes;
  bench.report.stayed_cached_bytes = std::max(bench.report.stayed_cached_bytes, stayed);
  return {};
}

Result<CommandTimes> run_command(const LinuxBench& bench, pc::LinuxMachine& machine,
                                 vmm::Deadline deadline) {
  vmm::AgentConnection agent = VOLT_TRY(machine.agent().connect());
  vmm::AgentExec exec =
      VOLT_TRY(vmm::AgentExec::start(std::move(agent), {.arguments = bench.plan.command}));
  VOLT_TRY(exec.close_stdin());
  int code = 0;
  std::string errors;
  const Result<CommandTimes> times = follow(exec, deadline, code, errors);
  if (!times && times.error().code == Code::kInterrupted) return times;
  if (!times) return std::unexpected(machine.explained(times.error()));
  if (code == 0 && times->first_byte_ns != 0) return times;
  const std::string words = "--command '" + bench.plan.command_text + "': ";
  if (code == 0) return fail(Code::kInvalid, words + "it printed nothing");
  errors.resize(std::min(errors.find('\n'), errors.size()));
  return fail(Code::kInvalid, words + "it ended with code " + std::to_string(code) +
                                  (errors.empty() ? "" : ": " + errors));
}

Result<TimedBoot> boot_timed(LinuxBench& bench, PageCache cache) {
  VOLT_TRY(prepare_page_cache(bench, cache));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  const std::uint64_t begun_ns = vmm::monotonic_clock_ns();
  LinuxRequest request = VOLT_TRY(linux_request(bench.arguments, true));
  pc::LinuxBoot boot = VOLT_TRY(boot_linux(bench.kvm, request, deadline));
  const std::uint64_t ready_ns = vmm::monotonic_clock_ns();
  const CommandTimes first = VOLT_TRY(run_command(bench, *boot.machine, deadline));
  const bool cold = cache == PageCache::kCold;
  LinuxSamples& lines = bench.report.lines;
  lines[cold ? LinuxLine::kColdBanner : LinuxLine::kWarmBanner].add(ready_ns - begun_ns);
  lines[cold ? LinuxLine::kColdFirstByte : LinuxLine::kWarmFirstByte].add(first.first_byte_ns -
                                                                          begun_ns);
  return TimedBoot{std::move(request), std::move(boot), begun_ns, first};
}

Result<> measure_life(LinuxBench& bench) {
  std::optional<TimedBoot> booted = VOLT_TRY(boot_timed(bench, PageCache::kWarm));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  const std::uint64_t asked_ns = vmm::monotonic_clock_ns();
  const CommandTimes second = VOLT_TRY(run_command(bench, *booted->boot.machine, deadline));
  const std::uint64_t stop_ns = vmm::monotonic_clock_ns();
  VOLT_TRY_IN("stop", shut_down_timed(*booted->boot.machine, deadline));
  const std::uint64_t ended_ns = vmm::monotonic_clock_ns();
  const std::uint64_t first_part_ns = booted->first.exit_ns - booted->begun_ns;
  booted.reset();
  LinuxSamples& lines = bench.report.lines;
  lines[LinuxLine::kCommandFirstByte].add(second.first_byte_ns - asked_ns);
  lines[LinuxLine::kCommandExit].add(second.exit_ns - asked_ns);
  lines[LinuxLine::kStop].add(ended_ns - stop_ns);
  // Without the second command, with the machine taken down.
  lines[LinuxLine::kLifeCycle].add(first_part_ns + vmm::monotonic_clock_ns() - stop_ns);
  return {};
}

Result<> measure_panic(LinuxBench& bench, PageCache cache, bool probe_keyboard) {
  VOLT_TRY(prepare_page_cache(bench, cache));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  const std::uint64_t begun_ns = vmm::monotonic_clock_ns();
  LinuxRequest request = VOLT_TRY(linux_request(bench.arguments, false));
  request.config.initrd = {};
  request.config.probe_keyboard = probe_keyboard;
  const pc::LinuxBoot boot = VOLT_TRY(boot_linux(bench.kvm, request, deadline));
  const Result<pc::Pc::End> end = await_end(*boot.machine, deadline);
  const std::uint64_t took_ns = vmm::monotonic_clock_ns() - begun_ns;
  if (!end && end.error().code == Code::kInterrupted) return std::unexpected(end.error());
  if (!end || boot.machine->console().panic().empty()) {
    Error what = end ? Error{Code::kGuestCrashed, 0, "without a root the kernel did not panic"}
                     : end.error();
    return std::unexpected(boot.machine->explained(std::move(what)));
  }
  constexpr LinuxLine kLines[] = {LinuxLine::kWarmPanic, LinuxLine::kWarmPanicKeyboard,
                                  LinuxLine::kColdPanic, LinuxLine::kColdPanicKeyboard};
  bench.report.lines[kLines[(cache == PageCache::kCold ? 2 : 0) + (probe_keyboard ? 1 : 0)]].add(
      took_ns);
  return {};
}

}  // namespace volt::tools
