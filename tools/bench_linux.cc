// volt bench linux: Linux guests booted, used, stopped, captured and restored, in rounds.
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/bench_linux_programs.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"

namespace volt::tools {
namespace {

constexpr Option kBenchLinuxOptions[] = {
    {"-n", "N", "how many rounds (10)"},
    {"--kernel", "K", "a kernel of `volt kernel ls`, or a file's path (the one added last)"},
    {"--initrd", "FILE", "the guest's root, with the command in it"},
    kCpusOption,
    kMemoryOption,
    {"--command", "'COMMAND ARGS'", "what runs in the guest; it must print something (date)"},
    {"--qemu", "PROGRAM", "measure this QEMU's microvm beside it (qemu-system-x86_64 if there)"},
    kTimeoutOption,
};
constexpr std::uint64_t kMaxRounds = 100'000;

Result<std::vector<std::string>> words_of(const std::string& command) {
  std::istringstream stream(command);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  if (words.empty()) return fail(Code::kInvalid, "--command: a command is expected");
  if (!is_utf8(command)) return fail(Code::kInvalid, "--command: UTF-8 is expected");
  return words;
}

// What the options say by themselves, before KVM is asked for.
Result<LinuxBenchPlan> parse_plan(const Arguments& arguments) {
  LinuxBenchPlan plan;
  plan.rounds = VOLT_TRY(arguments.number("-n", 10));
  if (plan.rounds == 0 || plan.rounds > kMaxRounds) {
    return fail(Code::kInvalid, "-n: 1 to " + std::to_string(kMaxRounds));
  }
  plan.command_text = arguments.get("--command", "date");
  plan.command = VOLT_TRY(words_of(plan.command_text));
  VOLT_TRY(deadline_of(arguments));
  if (!arguments.has("--initrd")) {
    return fail(Code::kInvalid, "--initrd is missing: a root with '" + plan.command[0] + "' in it");
  }
  const std::string initrd = arguments.get("--initrd");
  if (::access(initrd.c_str(), R_OK) != 0) {
    return fail(Code::kInvalid, "--initrd: there is no file '" + initrd + "' to be read");
  }
  plan.kernel = VOLT_TRY(find_kernel(arguments.get("--kernel")));
  const LinuxRequest request = VOLT_TRY(linux_request(arguments, true));
  plan.cpus = request.config.machine.cpus;
  plan.ram_bytes = request.config.ram_bytes;
  static_cast<void>(VOLT_TRY_IN("--memory", vmm::ram_layout(plan.ram_bytes)));
  return plan;
}

using Step = std::function<Result<>()>;

std::vector<Step> steps_of(LinuxBench& bench, const LinuxScratch& scratch) {
  std::vector<Step> steps = {
      [&] { return measure_cold_boot_and_capture(bench, scratch); },
      [&] { return measure_life(bench); },
      [&] { return measure_spawned_boot(bench); },
      [&] { return measure_spawned_panic(bench); },
      [&] { return measure_qemu_panic(bench); },
      [&] { return measure_spawned_banner(bench, scratch); },
      [&] { return measure_qemu_banner(bench, scratch); },
  };
  for (const PageCache cache : {PageCache::kCold, PageCache::kWarm}) {
    for (const bool keyboard : {false, true}) {
      steps.emplace_back(
          [&bench, cache, keyboard] { return measure_panic(bench, cache, keyboard); });
    }
  }
  for (std::size_t way = 0; way < kRestoreWayCount; ++way) {
    steps.emplace_back([&bench, &scratch, way]() -> Result<> {
      VOLT_TRY(measure_restore(bench, scratch, way));
      return measure_spawned_restore(bench, scratch, way);
    });
  }
  return steps;
}

Result<> measure(LinuxBench& bench) {
  const LinuxScratch scratch = VOLT_TRY(LinuxScratch::make(bench));
  std::vector<Step> steps = steps_of(bench, scratch);
  for (std::uint64_t i = 0; i < bench.plan.rounds; ++i) {
    progress("round " + std::to_string(i + 1) + " of " + std::to_string(bench.plan.rounds));
    for (const Step& step : steps) {
      VOLT_TRY(vmm::check_stop());
      VOLT_TRY(step());
    }
    // So that none always profits from what another has just done.
    std::reverse(steps.begin(), steps.end());
  }
  return {};
}

Result<int> bench_linux_guests(const Arguments& arguments) {
  LinuxBenchPlan plan = VOLT_TRY(parse_plan(arguments));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  LinuxBench bench = {.arguments = arguments, .kvm = kvm, .plan = std::move(plan)};
  find_qemu(bench);
  VOLT_TRY(measure(bench));
  VOLT_TRY(arguments.json() ? print_json(json_of(bench.plan, bench.report))
                            : print_text(text_of(bench.plan, bench.report)));
  return 0;
}

}  // namespace

const Command kBenchLinux = {
    .path = "bench linux",
    .operands = "",
    .summary = "measure boots, commands, captures and restores of Linux",
    .details =
        "Each round boots the guest cold (its files dropped from the page cache) and warm, to its\n"
        "agent's word that it is ready, to a command's first byte, and without a root to its\n"
        "panic; runs a second command; stops it; captures it; restores it, after a restore that\n"
        "is not counted; and does the same with `volt run` from spawn to first byte, three\n"
        "restores for a boot. Beside it QEMU's microvm panics on the same kernel, and both boot\n"
        "an initrd that prints a line and powers off.\n"
        "Rounds go forward and backward in turn. Ratios of medians are what is promised; absolute\n"
        "times are this machine's. Its snapshots are its own and go away with it.\n",
    .example = "volt bench linux -n 10 --initrd root.cpio.gz --json",
    .options = kBenchLinuxOptions,
    .least = 0,
    .most = 0,
    .run = bench_linux_guests};

}  // namespace volt::tools
