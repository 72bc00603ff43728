// volt snapshot ls, inspect, rm: the store as people see it.
#include <algorithm>
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

// One that cannot be read is listed with its reason; the others are listed all the same. One that
// another process removed meanwhile is left out.
void add_listed(const snapshot::Store& store, const snapshot::ListedSnapshot& snapshot,
                const snapshot::UsageCount& count, nlohmann::ordered_json& items) {
  const auto opened = snapshot::OpenedSnapshot::open(store, snapshot.reference);
  const auto usage = opened ? count.of(*opened) : std::unexpected(opened.error());
  if (usage) {
    items.push_back(snapshot_json(*opened, snapshot.reference, *usage));
  } else if (store.exists(snapshot.reference)) {
    items.push_back({{"name", snapshot.reference.text()},
                     {"digest", "sha256:" + snapshot.digest_hex},
                     {"error", usage.error().context}});
  }
}

struct Widths {
  std::size_t name = 20, guest = 8;
};

std::string line_of(const nlohmann::ordered_json& item, Widths widths) {
  std::string line = padded(item["name"].get<std::string>(), widths.name) +
                     item["digest"].get<std::string>().substr(7, 12) + "  ";
  if (item.contains("error")) return line + "damaged: " + item["error"].get<std::string>() + "\n";
  const auto size = [&](const char* key) { return human_size(item[key].get<std::uint64_t>()); };
  const std::string memory =
      size("unique_bytes") + " + " + size("shared_bytes") + " / " + size("apparent_bytes");
  return line + padded(item["workload"].get<std::string>(), widths.guest) +
         padded(item["storage"].get<std::string>(), 6) + padded(memory, 30) +
         age_of(item["created_unix_ns"].get<std::uint64_t>()) + "\n";
}

Result<int> list(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  nlohmann::ordered_json items = nlohmann::ordered_json::array();
  const snapshot::UsageCount count = VOLT_TRY(snapshot::count_usage(store));
  for (const snapshot::ListedSnapshot& each : VOLT_TRY(store.list())) {
    add_listed(store, each, count, items);
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
  Widths widths;
  for (const auto& item : items) {
    widths.name = std::max(widths.name, item["name"].get<std::string>().size());
    widths.guest = std::max(widths.guest, item.value("workload", "").size());
  }
  std::string text = padded("NAME", widths.name) + padded("DIGEST", 12) +
                     padded("GUEST", widths.guest) + padded("STORE", 6) +
                     padded("MEMORY own + shared / virtual", 30) + "AGE\n";
  for (const auto& item : items) text += line_of(item, widths);
  VOLT_TRY(print_text(text));
  return 0;
}

// One line a value: `guest.seed   1`. Texts come from files; what is in them stays on its line.
void add_lines(const std::string& key, const nlohmann::ordered_json& value, std::string& text) {
  if (value.is_object() && !value.empty()) {
    for (const auto& [name, part] : value.items()) {
      add_lines(key.empty() ? name : key + "." + name, part, text);
    }
    return;
  }
  std::string shown = value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  if (value.is_string() && shown.find('\\') == std::string::npos) {
    shown = shown.substr(1, shown.size() - 2);
  }
  text += padded(key, 30) + shown + "\n";
}

Result<int> inspect(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const snapshot::Store store = VOLT_TRY(open_store());
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(store, reference));
  nlohmann::ordered_json document = {{"schema", "volt.snapshot/v1"}};
  const snapshot::UsageCount count = VOLT_TRY(snapshot::count_usage(store));
  const snapshot::Usage usage = VOLT_TRY(count.of(opened));
  document.update(inspect_json(opened, reference, usage));
  if (arguments.json()) {
    VOLT_TRY(print_json(document));
    return 0;
  }
  std::string text;
  document.erase("schema");
  add_lines("", document, text);
  VOLT_TRY(print_text(text));
  return 0;
}

// What may be removed: a name that is there and, where a digest was given too, still has it.
Result<snapshot::Reference> removable(const snapshot::Store& store, const std::string& word) {
  auto reference = VOLT_TRY(snapshot::Reference::parse(word));
  if (reference.name.empty()) return reference;  // the store says what it wants instead
  const std::string digest = VOLT_TRY(store.digest_of(reference));
  if (reference.digest && formats::to_hex(*reference.digest) != digest) {
    return fail(Code::kConflict, "'" + reference.text() + "' is sha256:" + digest +
                                     " by now, not the digest given; nothing was removed");
  }
  return reference;
}

Result<int> remove(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  // All are looked at before the first is removed.
  std::vector<snapshot::Reference> references;
  for (const std::string& word : arguments.positional()) {
    references.push_back(VOLT_TRY(removable(store, word)));
  }
  nlohmann::ordered_json removed = nlohmann::ordered_json::array();
  std::string text;
  for (const snapshot::Reference& reference : references) {
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
                             .details =
                                 "Clones that run from a removed snapshot go on running. "
                                 "Nothing is removed if one REF is not there.\n",
                             .example = "volt snapshot rm demo:v1",
                             .options = {},
                             .least = 1,
                             .most = -1,
                             .run = remove};

}  // namespace volt::tools
