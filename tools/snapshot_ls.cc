// volt snapshot ls, inspect, rm: the store as people see it.
#include <ctime>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/size.h"
#include "tools/snapshot_json.h"

namespace volt::tools {
namespace {

std::string age_of(std::uint64_t created_unix_ns) {
  const std::uint64_t now = static_cast<std::uint64_t>(std::time(nullptr));
  const std::uint64_t then = created_unix_ns / 1'000'000'000;
  const std::uint64_t seconds = now > then ? now - then : 0;
  if (seconds < 120) return std::to_string(seconds) + " s";
  if (seconds < 2 * 3600) return std::to_string(seconds / 60) + " min";
  if (seconds < 2 * 86400) return std::to_string(seconds / 3600) + " h";
  return std::to_string(seconds / 86400) + " d";
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text + "  ";
}

// One that cannot be read is listed with its reason; the others are listed all the same.
nlohmann::ordered_json listed(const snapshot::Store& store,
                              const snapshot::ListedSnapshot& snapshot) {
  const auto opened = snapshot::OpenedSnapshot::open(store, snapshot.reference);
  if (opened) return snapshot_json(*opened, snapshot.reference);
  return {{"name", snapshot.reference.text()},
          {"digest", "sha256:" + snapshot.digest_hex},
          {"error", opened.error().context}};
}

std::string line_of(const nlohmann::ordered_json& item) {
  std::string line = padded(item["name"].get<std::string>(), 20) +
                     item["digest"].get<std::string>().substr(7, 12) + "  ";
  if (item.contains("error")) return line + "damaged: " + item["error"].get<std::string>() + "\n";
  const std::string memory = human_size(item["stored_bytes"].get<std::uint64_t>()) + " / " +
                             human_size(item["apparent_bytes"].get<std::uint64_t>());
  return line + padded(item["workload"].get<std::string>(), 8) + padded(memory, 22) +
         age_of(item["created_unix_ns"].get<std::uint64_t>()) + "\n";
}

Result<int> list(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  nlohmann::ordered_json items = nlohmann::ordered_json::array();
  for (const snapshot::ListedSnapshot& each : VOLT_TRY(store.list())) {
    items.push_back(listed(store, each));
  }
  if (arguments.json()) {
    VOLT_TRY(print_json(
        {{"schema", "volt.snapshot.ls/v1"}, {"items", std::move(items)}, {"next", nullptr}}));
    return 0;
  }
  if (items.empty()) {
    VOLT_TRY(print_text("no snapshots; make one:  volt snapshot create --name demo\n"));
    return 0;
  }
  std::string text = padded("NAME", 20) + padded("DIGEST", 12) + padded("GUEST", 8) +
                     padded("MEMORY stored/virtual", 22) + "AGE\n";
  for (const auto& item : items) text += line_of(item);
  VOLT_TRY(print_text(text));
  return 0;
}

Result<int> inspect(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const snapshot::Store store = VOLT_TRY(open_store());
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(store, reference));
  nlohmann::ordered_json document = {{"schema", "volt.snapshot/v1"}};
  document.update(inspect_json(opened, reference));
  if (arguments.json()) {
    VOLT_TRY(print_json(document));
    return 0;
  }
  std::string text;
  for (const auto& [key, value] : document.items()) {
    if (key == "schema") continue;
    text += padded(key, 16) + (value.is_string() ? value.get<std::string>() : value.dump()) + "\n";
  }
  VOLT_TRY(print_text(text));
  return 0;
}

Result<int> remove(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  nlohmann::ordered_json removed = nlohmann::ordered_json::array();
  std::string text;
  for (const std::string& word : arguments.positional()) {
    const auto reference = VOLT_TRY(snapshot::Reference::parse(word));
    VOLT_TRY(store.remove(reference));
    removed.push_back(reference.text());
    text += "removed " + reference.text() + "\n";
  }
  VOLT_TRY(arguments.json()
               ? print_json({{"schema", "volt.snapshot.rm/v1"}, {"removed", std::move(removed)}})
               : print_text(text));
  return 0;
}

}  // namespace

const Command kSnapshotLs = {.path = "snapshot ls",
                             .operands = "",
                             .summary = "list snapshots",
                             .details = "",
                             .example = "volt snapshot ls --json",
                             .options = {},
                             .least = 0,
                             .most = 0,
                             .run = list};

const Command kSnapshotInspect = {.path = "snapshot inspect",
                                  .operands = "REF",
                                  .summary = "show all that a snapshot's files say",
                                  .details = "",
                                  .example = "volt snapshot inspect demo --json",
                                  .options = {},
                                  .least = 1,
                                  .most = 1,
                                  .run = inspect};

const Command kSnapshotRm = {.path = "snapshot rm",
                             .operands = "REF...",
                             .summary = "forget names, and the snapshots no other name holds",
                             .details = "Clones that run from a removed snapshot go on running.\n",
                             .example = "volt snapshot rm demo:v1",
                             .options = {},
                             .least = 1,
                             .most = -1,
                             .run = remove};

}  // namespace volt::tools
