#include "tools/restore_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/context.h"

namespace volt::tools {

Result<snapshot::RestoreOptions> restore_options(const Arguments& arguments) {
  for (const char* option : {"--pager", "--uffd-handler"}) {
    if (arguments.has(option) && arguments.get(option).empty()) {
      return fail(Code::kInvalid, std::string(option) + ": the path of a socket is expected");
    }
  }
  snapshot::RestoreOptions options = {
      .loader = VOLT_TRY(snapshot::parse_loader(arguments.get("--loader", "auto"))),
      .hot_set = VOLT_TRY(hot_set_mode(arguments, "use"))};
  options.pager = arguments.get("--pager");
  options.isolate_image = arguments.has("--isolate-image");
  options.uffd_handler = arguments.get("--uffd-handler");
  return options;
}

Result<snapshot::Store> restore_store(const Arguments& arguments) {
  if (!arguments.has("--pager")) return open_store();
  return snapshot::Store("/dev/null");  // where nothing can be
}

double tenth(double value) {
  return std::round(value * 10) / 10;
}

double Samples::quantile(double q) const {
  if (ns_.empty()) return 0;
  std::vector<std::uint64_t> sorted = ns_;
  std::sort(sorted.begin(), sorted.end());
  const auto index = static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5);
  return static_cast<double>(sorted[index]) / 1e3;
}

std::optional<double> Samples::variation() const {
  if (ns_.size() < 2) return std::nullopt;
  double sum = 0, squares = 0;
  for (const std::uint64_t ns : ns_) sum += static_cast<double>(ns);
  const double mean = sum / static_cast<double>(ns_.size());
  for (const std::uint64_t ns : ns_) {
    const double off = static_cast<double>(ns) - mean;
    squares += off * off;
  }
  return std::sqrt(squares / static_cast<double>(ns_.size() - 1)) / mean;
}

nlohmann::ordered_json Samples::json() const {
  return {{"p50", tenth(quantile(0.5))},
          {"p90", tenth(quantile(0.9))},
          {"p99", tenth(quantile(0.99))},
          {"max", tenth(quantile(1))},
          {"first", tenth(first())}};
}

void PhaseSamples::add(const snapshot::RestorePhases& run) {
  for (std::size_t i = 0; i < kPhases.size(); ++i) phases[i].add(run.*kPhases[i].ns);
  total.add(run.total_ns());
}

Result<snapshot::HotSetMode> hot_set_mode(const Arguments& arguments, std::string_view otherwise) {
  return VOLT_TRY_IN("--hotset",
                     snapshot::parse_hot_set_mode(arguments.get("--hotset", otherwise)));
}

Result<> keep_recording(const snapshot::Store& store, snapshot::Restored& restored,
                        snapshot::HotSetMode asked) {
  if (restored.hot_set.role != snapshot::HotSetRole::kRecording) return {};
  const Result<std::uint64_t> pages = snapshot::save_hot_set(*restored.sandbox);
  // Who removed the snapshot meanwhile left its directory to us, who had a lock on it.
  store.sweep();
  if (pages) {
    restored.hot_set.set.pages.resize(*pages);
  } else if (asked == snapshot::HotSetMode::kRecord) {
    return std::unexpected(pages.error());
  } else {
    restored.hot_set.why = "not kept: " + pages.error().context;
  }
  return {};
}

nlohmann::ordered_json hot_set_json(const snapshot::Restored& restored) {
  const snapshot::HotSetPlan& plan = restored.hot_set;
  nlohmann::ordered_json json = {{"role", snapshot::role_name(plan.role)},
                                 {"why", plan.why},
                                 {"pages", plan.set.pages.size()}};
  if (plan.role != snapshot::HotSetRole::kReplayed) return json;
  if (const auto score = snapshot::score_hot_set(plan.set, *restored.sandbox)) {
    json["hits"] = score->hits;
    json["misses"] = score->misses;
    json["waste"] = score->waste;
  }
  return json;
}

nlohmann::ordered_json faults_json(const uffd::FaultCounts& faults) {
  return {{"faults", faults.faults},         {"units_filled", faults.units_filled},
          {"woken_only", faults.woken_only}, {"units_failed", faults.units_failed},
          {"prefetched", faults.prefetched}, {"prefetch_hits", faults.prefetch_hits},
          {"overtakes", faults.overtakes}};
}

std::optional<Served> served_of(const snapshot::Sandbox& sandbox) {
  const uffd::FaultServer* const server = sandbox.pager().server();
  const snapshot::SnapshotSource* const source = sandbox.pager().source();
  if (server == nullptr || source == nullptr) return std::nullopt;
  Served served = {.faults = server->counts(), .source = source->counts(), .engine = {}};
  if (const char* engine = source->engine()) served.engine = engine;
  return served;
}

nlohmann::ordered_json source_json(const Served& served) {
  const snapshot::SourceCounts& source = served.source;
  nlohmann::ordered_json json = {
      {"units_read", source.units_read},         {"bytes_read", source.bytes_read},
      {"cold_reads", source.cold_reads},         {"units_decoded", source.units_decoded},
      {"units_verified", source.units_verified}, {"units_zero", source.units_zero},
      {"units_wasted", source.units_wasted},     {"engine", nullptr}};
  if (served.engine) json["engine"] = *served.engine;
  return json;
}

std::string served_line(const Served& served) {
  const uffd::FaultCounts& faults = served.faults;
  const snapshot::SourceCounts& source = served.source;
  const auto text = [](std::uint64_t n) { return std::to_string(n); };
  return "pager: " + text(faults.faults) + " faults, " + text(faults.units_filled) +
         " units served, " + text(faults.prefetched) + " prefetched; " + text(source.units_read) +
         " read, " + text(source.units_decoded) + " decoded, " + text(source.units_verified) +
         " verified, " + text(source.units_zero) + " zero, " + text(source.units_wasted) +
         " wasted; " + text(source.cold_reads) + " cold reads" +
         (served.engine ? " through " + *served.engine : "") + "\n";
}

nlohmann::ordered_json loader_json(const snapshot::ChosenLoader& loader) {
  return {{"used", snapshot::loader_name(loader.loader)}, {"why", loader.why}};
}

nlohmann::ordered_json phases_json(const snapshot::RestorePhases& phases) {
  nlohmann::ordered_json json;
  for (const NamedPhase& phase : kPhases) {
    json[phase.name] = tenth(static_cast<double>(phases.*phase.ns) / 1e3);
  }
  json["total"] = tenth(static_cast<double>(phases.total_ns()) / 1e3);
  return json;
}

std::string table_row(const std::string& name, const std::vector<double>& numbers, int width) {
  char cell[64];
  std::snprintf(cell, sizeof cell, "%-*s", width, name.c_str());
  std::string row = cell;
  for (const double number : numbers) {
    std::snprintf(cell, sizeof cell, " %12.1f", number);
    row += cell;
  }
  return row + "\n";
}

std::string table_head(const std::string& name, const std::vector<std::string>& columns,
                       int width) {
  char cell[64];
  std::snprintf(cell, sizeof cell, "%-*s", width, name.c_str());
  std::string row = cell;
  for (const std::string& column : columns) {
    std::snprintf(cell, sizeof cell, " %12s", column.c_str());
    row += cell;
  }
  return row + "\n";
}

}  // namespace volt::tools
