#include "tools/bench_report.h"

#include <cmath>

#include "tools/host_facts.h"
#include "tools/size.h"

namespace volt::tools {
namespace {

double ratio_of(const BenchReport& report) {
  return std::round(report.restore.quantile(0.5) / report.floor.quantile(0.5) * 1000) / 1000;
}

}  // namespace

nlohmann::ordered_json json_of(const BenchPlan& plan, const BenchReport& report) {
  nlohmann::ordered_json phases, floor_phases;
  for (std::size_t i = 0; i < kPhases.size(); ++i) {
    phases[kPhases[i].name] = tenth(report.phases.phases[i].quantile(0.5));
  }
  for (const auto& [name, samples] : report.floor_steps) {
    floor_phases[name] = tenth(samples.quantile(0.5));
  }
  return {{"schema", "volt.bench.restore/v1"},
          {"n", plan.runs},
          {"loader", loader_json(report.loader)},
          {"memory_bytes", plan.ram_bytes},
          {"stored_bytes", plan.stored_bytes},
          {"working_set_bytes", plan.guest.working_set_bytes()},
          {"touched_pages", plan.pages.size()},
          {"boot_us", plan.boot_us},
          {"floor_us", report.floor.json()},
          {"restore_us", report.restore.json()},
          {"phases_us", std::move(phases)},
          {"floor_phases_us", std::move(floor_phases)},
          {"slots_us",
           {{"floor", tenth(report.floor_slots.quantile(0.5))},
            {"restore", tenth(report.restore_slots.quantile(0.5))}}},
          {"ratio_p50", ratio_of(report)},
          {"verified", report.verified},
          {"cache", plan.cold ? "cold" : "warm"},
          {"hot_set", report.hot_set},
          {"last_clone_faults", faults_json(report.served.value_or(Served{}).faults)},
          {"last_clone_source", report.served ? source_json(*report.served) : nullptr},
          {"pager", report.pager},
          {"faults_us", report.faults_us},
          {"host", host_facts_json()}};
}

std::string text_of(const BenchPlan& plan, const BenchReport& report) {
  std::string text = std::to_string(report.verified) + " of " + std::to_string(plan.runs) +
                     " verified, " + human_size(plan.ram_bytes) + " guest, " +
                     std::to_string(plan.pages.size()) + " pages written, loader " +
                     snapshot::loader_name(report.loader.loader) + "\n\n" +
                     table_head("phase", {"p50 us", "p99 us", "floor p50", "floor p99"});
  for (std::size_t i = 0; i < kPhases.size(); ++i) {
    const Samples& samples = report.phases.phases[i];
    std::vector<double> row = {samples.quantile(0.5), samples.quantile(0.99)};
    if (const auto at = report.floor_steps.find(kPhases[i].name); at != report.floor_steps.end()) {
      row.push_back(at->second.quantile(0.5));
      row.push_back(at->second.quantile(0.99));
    }
    text += table_row(kPhases[i].name, row);
  }
  text += table_row("total", {report.restore.quantile(0.5), report.restore.quantile(0.99),
                              report.floor.quantile(0.5), report.floor.quantile(0.99)});
  text += table_row("first total", {report.restore.first(), report.restore.first(),
                                    report.floor.first(), report.floor.first()});
  text += table_row("boot replaced", {static_cast<double>(plan.boot_us)});
  if (!report.faults_us.is_null()) {
    const auto us = [&](const char* name) { return report.faults_us[name].get<double>(); };
    text += table_row("a fault", {us("p50"), us("p99")});
  }
  if (report.served) text += "last clone: " + served_line(*report.served);
  char line[64];
  std::snprintf(line, sizeof line, "; ratio of medians: %.3f\n", ratio_of(report));
  return text + "snapshot: " + human_size(plan.stored_bytes) + " stored of " +
         human_size(plan.ram_bytes) + line;
}

}  // namespace volt::tools
