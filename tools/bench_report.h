// What `volt bench restore` measures and what it found, as a document and as a table.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/floor.h"
#include "snapshot/restore.h"
#include "tools/restore_report.h"

namespace volt::tools {

struct BenchPlan {
  std::uint64_t runs = 0;
  std::string reference_text;
  snapshot::RestoreOptions options;
  bool cold = false;
  bool pager = false;       // in another process
  std::string memory_file;  // raw, for the floor
  std::uint64_t ram_bytes = 0;
  std::uint64_t stored_bytes = 0;
  std::uint64_t boot_us = 0;
  formats::v1::Guest guest;
  std::uint64_t touched = 0;
  std::vector<std::uint64_t> pages;
  vmm::Call touch;
  std::uint64_t touch_sum = 0;
  std::optional<std::uint64_t> scan_sum;  // where --verify was given
};

struct BenchReport {
  Samples floor, floor_slots, restore, restore_slots;
  std::map<std::string, Samples> floor_steps;
  PhaseSamples phases;
  snapshot::ChosenLoader loader;
  nlohmann::ordered_json hot_set;       // of the last clone
  std::optional<Served> served;         // the same, by a pager in this process
  std::vector<volt_floor::Slot> slots;  // as the product's first clone had them
  nlohmann::ordered_json faults_us;     // of all clones; null where nobody timed any
  nlohmann::ordered_json pager;         // counters of the one in another process, or null
  std::uint64_t verified = 0;
};

nlohmann::ordered_json json_of(const BenchPlan& plan, const BenchReport& report);
std::string text_of(const BenchPlan& plan, const BenchReport& report);

}  // namespace volt::tools
