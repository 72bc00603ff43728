// How restores are reported: phases in microseconds, quantiles of many.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/restore.h"
#include "snapshot/snapshot_source.h"
#include "tools/options.h"

namespace volt::tools {

inline constexpr Option kLoaderOption = {"--loader", "auto|map|uffd|copy",
                                         "how memory reaches the guest (auto)"};

inline constexpr Option kHotSetOption = {
    "--hotset", "use|record|off", "what to do with the pages touched first (use; records if none)"};
Result<snapshot::HotSetMode> hot_set_mode(const Arguments& arguments, std::string_view otherwise);
// After the first calls of a recording restore. Where nobody asked for a recording, one that cannot
// be kept is told in the report: the calls were answered.
Result<> keep_recording(const snapshot::Store& store, snapshot::Restored& restored,
                        snapshot::HotSetMode asked);
// {role, why, pages}, and how much of it was used where it was replayed.
nlohmann::ordered_json hot_set_json(const snapshot::Restored& restored);

nlohmann::ordered_json faults_json(const uffd::FaultCounts& faults);

// What a pager in this process did for a clone so far.
struct Served {
  uffd::FaultCounts faults;
  snapshot::SourceCounts source;
  std::optional<std::string> engine;  // of cold reads; absent if there was none
};
// Absent where no pager of this process serves it.
std::optional<Served> served_of(const snapshot::Sandbox& sandbox);
// Its counters as one object: {units_read, ..., engine}.
nlohmann::ordered_json source_json(const Served& served);
// All of it in one line.
std::string served_line(const Served& served);

inline constexpr Option kPagerOption = {"--pager", "PATH",
                                        "a pager's socket: it serves the memory, no store needed"};
inline constexpr Option kIsolateOption = {"--isolate-image", "",
                                          "with --pager: see only pages that it shows this clone"};
inline constexpr Option kHandlerOption = {"--uffd-handler", "PATH",
                                          "a page-fault handler written for Firecracker"};
// What --loader, --hotset and those three say.
Result<snapshot::RestoreOptions> restore_options(const Arguments& arguments);
// Where snapshots are. With --pager that is the pager's business: none is looked for.
Result<snapshot::Store> restore_store(const Arguments& arguments);

struct NamedPhase {
  const char* name;
  std::uint64_t snapshot::RestorePhases::* ns;
};
inline constexpr std::array<NamedPhase, 7> kPhases = {{
    {"resolve", &snapshot::RestorePhases::resolve_ns},
    {"vm", &snapshot::RestorePhases::vm_ns},
    {"memory", &snapshot::RestorePhases::memory_ns},
    {"slots", &snapshot::RestorePhases::slots_ns},
    {"state", &snapshot::RestorePhases::state_ns},
    {"identity", &snapshot::RestorePhases::identity_ns},
    {"first_exit", &snapshot::RestorePhases::first_exit_ns},
}};

// Times of many runs, in nanoseconds.
class Samples {
 public:
  void add(std::uint64_t ns) { ns_.push_back(ns); }
  std::size_t count() const { return ns_.size(); }
  // In microseconds; 0 where there are no samples.
  double quantile(double q) const;
  // Standard deviation by mean; nothing where there are not two samples to differ.
  std::optional<double> variation() const;
  double first() const { return ns_.empty() ? 0 : static_cast<double>(ns_.front()) / 1e3; }
  // {p50, p90, p99, max, first}
  nlohmann::ordered_json json() const;

 private:
  std::vector<std::uint64_t> ns_;
};

// Samples of each phase and of the total.
struct PhaseSamples {
  std::array<Samples, kPhases.size()> phases;
  Samples total;
  void add(const snapshot::RestorePhases& run);
};

nlohmann::ordered_json loader_json(const snapshot::ChosenLoader& loader);
// One restore: {resolve, ..., total}.
nlohmann::ordered_json phases_json(const snapshot::RestorePhases& phases);

// Rounded to a tenth: nothing here is known better.
double tenth(double value);

// A row of a table: name, then numbers with one decimal in columns.
std::string table_row(const std::string& name, const std::vector<double>& numbers, int width = 14);
std::string table_head(const std::string& name, const std::vector<std::string>& columns,
                       int width = 14);

}  // namespace volt::tools
