#include "tools/bench_linux_programs.h"

#include "tools/bench_banner.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/program.h"
#include "tools/timed_program.h"

namespace volt::tools {
namespace {

constexpr char kDefaultQemu[] = "qemu-system-x86_64";
constexpr char kPanic[] = "Kernel panic - not syncing";

// This very program.
TimedProgram volt_program(const LinuxBench& bench, std::vector<std::string> words,
                          bool with_command) {
  TimedProgram program = {.path = "/proc/self/exe", .words = {"volt", "run"}, .variables = {}};
  program.words.insert(program.words.end(), words.begin(), words.end());
  if (bench.arguments.has("--timeout")) {
    program.words.insert(program.words.end(), {"--timeout", bench.arguments.get("--timeout")});
  }
  if (!with_command) return program;
  program.words.push_back("--");
  program.words.insert(program.words.end(), bench.plan.command.begin(), bench.plan.command.end());
  return program;
}

std::vector<std::string> machine_words(const LinuxBench& bench) {
  return {"--kernel", bench.plan.kernel.name,
          "--cpus",   std::to_string(bench.plan.cpus),
          "--memory", std::to_string(bench.plan.ram_bytes)};
}

Result<std::uint64_t> first_byte_of(TimedProgram program, vmm::Deadline deadline) {
  const ProgramTimes times = VOLT_TRY(time_program(std::move(program), deadline));
  if (times.status == 0 && times.first_byte_ns != 0) return times.first_byte_ns;
  return fail(Code::kGuestCrashed, "volt run, spawned, ended with code " +
                                       std::to_string(times.status) + ": " + last_line(times.err));
}

// A restore is so much shorter than a boot that one of them in a round says little about it.
constexpr int kSpawnedRestores = 3;

// To its end, by which `said` must have come on its console.
Result<> measure_qemu(LinuxBench& bench, const std::vector<std::string>& words,
                      std::string_view said, LinuxLine line) {
  LinuxBenchReport& report = bench.report;
  if (!report.qemu_missing.empty()) return {};
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  TimedProgram program = {.path = report.qemu,
                          .words = {report.qemu,
                                    "-M",
                                    "microvm",
                                    "-accel",
                                    "kvm",
                                    "-cpu",
                                    "host",
                                    "-m",
                                    std::to_string(bench.plan.ram_bytes >> 20) + "M",
                                    "-smp",
                                    std::to_string(bench.plan.cpus),
                                    "-nodefaults",
                                    "-no-user-config",
                                    "-display",
                                    "none",
                                    "-no-reboot",
                                    "-serial",
                                    "stdio",
                                    "-kernel",
                                    bench.plan.kernel.path,
                                    "-append",
                                    pc::command_line_of({})},
                          .variables = {}};
  program.words.insert(program.words.end(), words.begin(), words.end());
  const Result<ProgramTimes> times = time_program(std::move(program), deadline);
  if (!times && times.error().code != Code::kDeadline) return std::unexpected(times.error());
  if (times && times->status == 0 && times->out.contains(said)) {
    report.lines[line].add(times->exit_ns);
    return {};
  }
  report.qemu_missing = !times
                            ? times.error().context
                            : report.qemu + " ended with code " + std::to_string(times->status) +
                                  " without '" + std::string(said) +
                                  "': " + last_line(times->err.empty() ? times->out : times->err);
  return {};
}

}  // namespace

Result<> measure_spawned_boot(LinuxBench& bench) {
  VOLT_TRY(prepare_page_cache(bench, PageCache::kCold));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  std::vector<std::string> words = machine_words(bench);
  words.insert(words.end(), {"--initrd", bench.arguments.get("--initrd")});
  const std::uint64_t took_ns = VOLT_TRY(first_byte_of(volt_program(bench, words, true), deadline));
  bench.report.lines[LinuxLine::kSpawnCold].add(took_ns);
  return {};
}

Result<> measure_spawned_restore(LinuxBench& bench, const LinuxScratch& scratch, std::size_t way) {
  const RestoreWay& asked = kRestoreWays[way];
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  TimedProgram program = volt_program(
      bench, {"--from", LinuxScratch::reference().text(), "--hotset", asked.hot ? "use" : "off"},
      true);
  program.variables = {"VOLT_DATA_DIR=" + scratch.store(asked.packed).path()};
  for (int i = 0; i < kSpawnedRestores; ++i) {
    bench.report.lines[asked.spawned].add(VOLT_TRY(first_byte_of(program, deadline)));
  }
  return {};
}

Result<> measure_spawned_panic(LinuxBench& bench) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  const ProgramTimes times =
      VOLT_TRY(time_program(volt_program(bench, machine_words(bench), false), deadline));
  if (times.status != exit_code(Code::kGuestCrashed) || !times.err.contains(kPanic)) {
    return fail(Code::kGuestCrashed, "volt run without a root, spawned, did not report a panic: " +
                                         last_line(times.err));
  }
  bench.report.lines[LinuxLine::kSpawnPanic].add(times.exit_ns);
  return {};
}

Result<> measure_spawned_banner(LinuxBench& bench, const LinuxScratch& scratch) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  std::vector<std::string> words = machine_words(bench);
  words.insert(words.end(), {"--initrd", scratch.banner_initrd()});
  const ProgramTimes times = VOLT_TRY(time_program(volt_program(bench, words, false), deadline));
  if (times.status != 0) {
    return fail(Code::kGuestCrashed,
                "volt run, spawned, did not power off: " + last_line(times.err));
  }
  bench.report.lines[LinuxLine::kSpawnBanner].add(times.exit_ns);
  return {};
}

void find_qemu(LinuxBench& bench) {
  const std::string name = bench.arguments.get("--qemu", kDefaultQemu);
  bench.report.qemu = find_program(name);
  if (bench.report.qemu.empty()) bench.report.qemu_missing = "there is no " + name + " in PATH";
}

Result<> measure_qemu_panic(LinuxBench& bench) {
  return measure_qemu(bench, {}, kPanic, LinuxLine::kQemuPanic);
}

Result<> measure_qemu_banner(LinuxBench& bench, const LinuxScratch& scratch) {
  return measure_qemu(bench, {"-initrd", scratch.banner_initrd()}, kBanner, LinuxLine::kQemuBanner);
}

}  // namespace volt::tools
