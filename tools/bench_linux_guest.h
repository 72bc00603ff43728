// Linux guests that are booted in the bench's own process: to their banner, to their panic, to what
// a command prints, and to their end.
#pragma once

#include "tools/bench_linux_report.h"
#include "tools/linux_guest.h"

namespace volt::tools {

// What each measurement needs, and where it puts what it found.
struct LinuxBench {
  const Arguments& arguments;
  const vmm::Kvm& kvm;
  LinuxBenchPlan plan;
  LinuxBenchReport report = {};
};

// Whether a boot has to read its files from the disk.
enum class PageCache { kCold, kWarm };
// For kCold: drops them, and notes how much of them stayed.
Result<> prepare_page_cache(LinuxBench& bench, PageCache cache);

struct CommandTimes {
  std::uint64_t first_byte_ns = 0;  // CLOCK_MONOTONIC
  std::uint64_t exit_ns = 0;
};
// The bench's command in a guest that is ready. One that prints nothing or fails is an error.
Result<CommandTimes> run_command(const LinuxBench& bench, pc::LinuxMachine& machine,
                                 vmm::Deadline deadline);

struct TimedBoot {
  LinuxRequest request;
  pc::LinuxBoot boot;
  std::uint64_t begun_ns = 0;
  CommandTimes first;
};
// Up to the end of the first command.
Result<TimedBoot> boot_timed(LinuxBench& bench, PageCache cache);

// Boot, first command, second command, stop.
Result<> measure_life(LinuxBench& bench);
Result<> measure_panic(LinuxBench& bench, PageCache cache, bool probe_keyboard);

}  // namespace volt::tools
