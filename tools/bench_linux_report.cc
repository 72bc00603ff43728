#include "tools/bench_linux_report.h"

#include <cmath>

#include "tools/host_facts.h"
#include "tools/size.h"

namespace volt::tools {
namespace {

struct NamedLine {
  const char* key;
  const char* label;
};

// In the order of LinuxLine.
constexpr NamedLine kNames[] = {
    {"cold_boot_banner", "cold boot: ready"},
    {"cold_boot_first_byte", "  first byte"},
    {"cold_boot_panic", "  panic, no root"},
    {"cold_boot_panic_keyboard", "  the same, i8042"},
    {"warm_boot_banner", "warm boot: ready"},
    {"warm_boot_first_byte", "  first byte"},
    {"warm_boot_panic", "  panic, no root"},
    {"warm_boot_panic_keyboard", "  the same, i8042"},
    {"warm_command_first_byte", "2nd command: byte"},
    {"warm_command_exit", "  exit"},
    {"stop", "stop"},
    {"life_cycle", "whole life"},
    {"restore_raw_hot", "restore: raw, hot"},
    {"restore_raw", "  raw"},
    {"restore_packed_hot", "  packed, hot"},
    {"restore_packed", "  packed"},
    {"freeze", "capture: freeze"},
    {"capture_raw", "  raw"},
    {"capture_packed", "  packed"},
    {"pause_raw", "  pause, raw"},
    {"pause_packed", "  pause, packed"},
    {"spawn_cold_boot", "volt run: cold"},
    {"spawn_from_raw_hot", "  from raw, hot"},
    {"spawn_from_raw", "  from raw"},
    {"spawn_from_packed_hot", "  from packed, hot"},
    {"spawn_from_packed", "  from packed"},
    {"spawn_panic", "  panic, no root"},
    {"spawn_banner", "  banner, power off"},
    {"qemu_microvm_panic", "QEMU microvm: panic"},
    {"qemu_microvm_banner", "  banner, power off"},
};
static_assert(std::size(kNames) == kLinuxLines);
constexpr int kNameWidth = 20;

std::optional<double> ratio(const LinuxBenchReport& report, LinuxLine over, LinuxLine under) {
  const double below = report.lines[under].quantile(0.5);
  if (below == 0) return std::nullopt;
  return report.lines[over].quantile(0.5) / below;
}

nlohmann::ordered_json ratio_json(const LinuxBenchReport& report, LinuxLine over, LinuxLine under) {
  const std::optional<double> value = ratio(report, over, under);
  return value ? nlohmann::ordered_json(std::round(*value * 1000) / 1000) : nullptr;
}

std::string ratio_text(const LinuxBenchReport& report, LinuxLine over, LinuxLine under) {
  const std::optional<double> value = ratio(report, over, under);
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value.value_or(0));
  return value ? text : "-";
}

nlohmann::ordered_json lines_json(const LinuxBenchReport& report) {
  nlohmann::ordered_json lines;
  for (std::size_t i = 0; i < kLinuxLines; ++i) {
    const Samples& samples = report.lines[static_cast<LinuxLine>(i)];
    nlohmann::ordered_json& line = lines[kNames[i].key];
    if (samples.count() == 0) continue;  // null: it was not measured
    line = samples.json();
    line["n"] = samples.count();
    const std::optional<double> variation = samples.variation();
    line["cv"] = variation ? nlohmann::ordered_json(std::round(*variation * 1e4) / 1e4) : nullptr;
  }
  return lines;
}

nlohmann::ordered_json ratios_json(const LinuxBenchReport& report) {
  nlohmann::ordered_json in_process, spawned;
  for (const RestoreWay& way : kRestoreWays) {
    in_process[way.key] = ratio_json(report, LinuxLine::kColdFirstByte, way.in_process);
    spawned[way.key] = ratio_json(report, LinuxLine::kSpawnCold, way.spawned);
  }
  return {{"cold_boot_by_restore", in_process},
          {"spawn_cold_boot_by_spawn_from", spawned},
          {"cold_boot_by_warm_boot",
           ratio_json(report, LinuxLine::kColdFirstByte, LinuxLine::kWarmFirstByte)},
          {"panic_i8042_by_without",
           ratio_json(report, LinuxLine::kWarmPanicKeyboard, LinuxLine::kWarmPanic)},
          {"qemu_microvm_by_spawn",
           {{"panic", ratio_json(report, LinuxLine::kQemuPanic, LinuxLine::kSpawnPanic)},
            {"banner", ratio_json(report, LinuxLine::kQemuBanner, LinuxLine::kSpawnBanner)}}}};
}

nlohmann::ordered_json ways_json(const LinuxBenchReport& report) {
  nlohmann::ordered_json ways;
  for (std::size_t i = 0; i < kRestoreWayCount; ++i) {
    const RestoreWayReport& way = report.ways[i];
    nlohmann::ordered_json phases;
    for (std::size_t p = 0; p < kPhases.size(); ++p) {
      phases[kPhases[p].name] = tenth(way.phases.phases[p].quantile(0.5));
    }
    ways[kRestoreWays[i].key] = {{"loader", loader_json(way.loader)},
                                 {"hot_set", way.hot_set},
                                 {"phases_us", std::move(phases)}};
  }
  return ways;
}

// How much of what a clone used its hot set had, in per cent; "-" where none was replayed.
std::string covered_text(const RestoreWayReport& way) {
  if (!way.hot_set.contains("hits")) return "-";
  const double hits = way.hot_set["hits"], misses = way.hot_set["misses"];
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", hits + misses == 0 ? 0 : 100 * hits / (hits + misses));
  return text;
}

std::string ratios_text(const LinuxBenchReport& report) {
  std::string text =
      "\n" + table_head("cold boot / restore", {"in process", "spawned", "loader", "covered %"},
                        kNameWidth);
  for (std::size_t i = 0; i < kRestoreWayCount; ++i) {
    const RestoreWay& way = kRestoreWays[i];
    text += table_head(
        way.label,
        {ratio_text(report, LinuxLine::kColdFirstByte, way.in_process),
         ratio_text(report, LinuxLine::kSpawnCold, way.spawned),
         snapshot::loader_name(report.ways[i].loader.loader), covered_text(report.ways[i])},
        kNameWidth);
  }
  return text +
         "medians, to the first command's first byte; covered: of the blocks that the last clone\n"
         "used, those its hot set had\n";
}

std::string cache_text(const LinuxBenchReport& report) {
  const std::string files = human_size(report.boot_file_bytes) + " of kernel, modules and initrd";
  if (report.stayed_cached_bytes == 0) return "cold: " + files + " left the page cache first\n";
  return "NOT COLD: of " + files + ", " + human_size(report.stayed_cached_bytes) +
         " stayed in the page cache\n(on a file system in memory?), or are not yours to look at\n";
}

std::string qemu_text(const LinuxBenchReport& report) {
  if (!report.qemu_missing.empty())
    return "QEMU microvm: not measured, " + report.qemu_missing + "\n";
  return "QEMU microvm / volt run, spawn to exit: " +
         ratio_text(report, LinuxLine::kQemuPanic, LinuxLine::kSpawnPanic) + " with a panic, " +
         ratio_text(report, LinuxLine::kQemuBanner, LinuxLine::kSpawnBanner) +
         " with a banner and power off\n";
}

}  // namespace

nlohmann::ordered_json json_of(const LinuxBenchPlan& plan, const LinuxBenchReport& report) {
  const bool measured = report.qemu_missing.empty();
  return {
      {"schema", "volt.bench.linux/v1"},
      {"n", plan.rounds},
      {"kernel", {{"name", plan.kernel.name}, {"version", report.kernel_version}}},
      {"command", plan.command_text},
      {"cpus", plan.cpus},
      {"memory_bytes", plan.ram_bytes},
      {"lines_us", lines_json(report)},
      {"ratios_p50", ratios_json(report)},
      {"page_cache",
       {{"boot_file_bytes", report.boot_file_bytes}, {"stayed_bytes", report.stayed_cached_bytes}}},
      {"snapshot",
       {{"apparent_bytes", report.apparent_bytes},
        {"raw_bytes", report.raw_bytes},
        {"packed_bytes", report.packed_bytes},
        {"touched_pages", report.touched_pages}}},
      {"restores", ways_json(report)},
      {"qemu",
       {{"measured", measured},
        {"program", report.qemu.empty() ? nlohmann::ordered_json(nullptr)
                                        : nlohmann::ordered_json(report.qemu)},
        {"why", measured ? nlohmann::ordered_json(nullptr)
                         : nlohmann::ordered_json(report.qemu_missing)}}},
      {"host", host_facts_json()}};
}

std::string text_of(const LinuxBenchPlan& plan, const LinuxBenchReport& report) {
  std::string text = "rounds: " + std::to_string(plan.rounds) + ", kernel: " + plan.kernel.name +
                     " (Linux " + report.kernel_version + "), CPUs: " + std::to_string(plan.cpus) +
                     ", " + human_size(plan.ram_bytes) + ", command '" + plan.command_text +
                     "'\n\n" + table_head("line", {"p50 us", "p99 us", "cv %"}, kNameWidth);
  for (std::size_t i = 0; i < kLinuxLines; ++i) {
    const Samples& samples = report.lines[static_cast<LinuxLine>(i)];
    if (samples.count() == 0) continue;  // QEMU, which is told of below
    std::vector<double> row = {samples.quantile(0.5), samples.quantile(0.99)};
    if (const auto variation = samples.variation()) row.push_back(*variation * 100);
    text += table_row(kNames[i].label, row, kNameWidth);
  }
  text += ratios_text(report) + "\nsnapshot: " + human_size(report.raw_bytes) + " raw, " +
          human_size(report.packed_bytes) + " packed, of " + human_size(report.apparent_bytes) +
          "; the first command touched " + human_size(report.touched_pages * 4096) + "\n";
  return text + cache_text(report) + qemu_text(report);
}

}  // namespace volt::tools
