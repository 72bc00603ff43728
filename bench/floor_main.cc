// The floor as a program of its own:
//   volt-floor fresh|existing MEMORY_FILE RAM_MIB [N]
//       N restores, each step's median and p99
//   volt-floor call MEMORY_FILE RAM_MIB SLOT_KIB TEXT
//       one restore that echoes TEXT, like `volt call`; RAM has one slot of that size
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/floor.h"

namespace {

using volt_floor::Timing;

constexpr std::uint32_t kEchoFunction = 2;

void print_steps(std::vector<Timing>& runs) {
  const auto at = [&runs](auto value, double quantile) {
    std::vector<std::uint64_t> all;
    for (const Timing& run : runs) all.push_back(value(run));
    std::sort(all.begin(), all.end());
    return static_cast<double>(
               all[static_cast<std::size_t>(quantile * static_cast<double>(all.size() - 1))]) /
           1e3;
  };
  std::printf("%-14s %10s %10s\n", "step", "p50 us", "p99 us");
  for (std::size_t i = 0; i < runs[0].steps.size(); ++i) {
    const auto step = [i](const Timing& run) { return run.steps[i].ns; };
    std::printf("%-14s %10.1f %10.1f\n", runs[0].steps[i].name, at(step, 0.5), at(step, 0.99));
  }
  const auto total = [](const Timing& run) { return run.total_ns; };
  std::printf("%-14s %10.1f %10.1f\n", "total", at(total, 0.5), at(total, 0.99));
}

int usage() {
  std::fprintf(stderr,
               "usage: volt-floor fresh|existing MEMORY_FILE RAM_MIB [N]\n"
               "       volt-floor call MEMORY_FILE RAM_MIB SLOT_KIB TEXT\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return usage();
  const std::uint64_t ram_bytes = std::strtoull(argv[3], nullptr, 10) << 20;
  const int kvm = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) {
    std::perror("/dev/kvm");
    return 6;
  }
  if (std::strcmp(argv[1], "call") == 0 && argc == 6) {
    const volt_floor::Slot slot = {.bytes = std::strtoull(argv[4], nullptr, 10) << 10};
    const std::string text = argv[5];
    volt_floor::fresh(kvm, argv[2], ram_bytes, {&slot, 1},
                      {.function = kEchoFunction,
                       .arguments = std::as_bytes(std::span(text.data(), text.size()))});
    std::printf("%s\n", volt_floor::last_reply().c_str());
    std::fflush(stdout);
    ::_exit(0);
  }
  const bool fresh = std::strcmp(argv[1], "fresh") == 0;
  if (!fresh && std::strcmp(argv[1], "existing") != 0) return usage();
  std::vector<Timing> runs(argc > 4 ? std::strtoul(argv[4], nullptr, 10) : 200);
  const volt_floor::Request echo = {.function = kEchoFunction, .arguments = {}};
  for (Timing& run : runs) {
    run = fresh ? volt_floor::fresh(kvm, argv[2], ram_bytes, volt_floor::whole_ram(ram_bytes), echo)
                : volt_floor::existing(kvm, argv[2], ram_bytes, echo);
  }
  if (!runs.empty()) print_steps(runs);
  return 0;
}
