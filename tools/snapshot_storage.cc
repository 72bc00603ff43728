// volt snapshot pack, unpack, compact, prune, tree: how snapshots are stored, and what that takes.
#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "snapshot/prune.h"
#include "snapshot/storage.h"
#include "snapshot/usage.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/size.h"
#include "tools/storage_options.h"

namespace volt::tools {
namespace {

constexpr Option kPackOptions[] = {
    {"--relayout", "", "pack anew what is packed already, in the order of its hot set"},
    kLevelOption,
    kThreadsOption,
};
constexpr Option kUnpackOptions[] = {kThreadsOption};
constexpr Option kCompactOptions[] = {kStoreOption, kLevelOption, kThreadsOption};
constexpr Option kPruneOptions[] = {
    {"--dry-run", "", "tell what would be removed, and remove nothing"},
    {"--dead", "PERCENT", "write a pack anew when this much of it is dead (20)"},
    kLevelOption,
    kThreadsOption,
};

nlohmann::ordered_json change_json(const char* schema, const snapshot::Reference& reference,
                                   const snapshot::StorageChange& change) {
  return {{"schema", schema},
          {"name", reference.text()},
          {"changed", change.changed},
          {"units", change.units},
          {"shared_units", change.shared_units},
          {"written_bytes", change.written_bytes}};
}

std::string packed_text(const snapshot::StorageChange& change) {
  std::string text = std::to_string(change.units) + " units, " +
                     std::to_string(change.shared_units) + " stored before, " +
                     human_size(change.written_bytes) + " written";
  if (change.hot_units > 0) text += ", " + std::to_string(change.hot_units) + " hot units first";
  if (!change.hot_set_unusable.empty()) {
    text += "; its hot set was left out of account: " + change.hot_set_unusable;
  }
  return text;
}

Result<int> pack(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const snapshot::PackOptions options = VOLT_TRY(pack_options(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  progress("packing " + reference.text() + " ...");
  const bool relayout = arguments.has("--relayout");
  const snapshot::StorageChange change =
      VOLT_TRY(relayout ? snapshot::relayout(store, reference, options)
                        : snapshot::pack(store, reference, options));
  if (arguments.json()) {
    auto json = change_json("volt.snapshot.pack/v1", reference, change);
    json["hot_units"] = change.hot_units;
    json["hot_set_unusable"] = change.hot_set_unusable;
    VOLT_TRY(print_json(json));
    return 0;
  }
  if (!change.changed) {
    VOLT_TRY(print_text(reference.text() + " is packed already" +
                        (relayout ? " in the order of its hot set\n" : "\n")));
    return 0;
  }
  VOLT_TRY(print_text("packed " + reference.text() + ": " + packed_text(change) + "\n"));
  return 0;
}

Result<int> unpack(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const unsigned threads = VOLT_TRY(threads_of(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  progress("unpacking " + reference.text() + " ...");
  const snapshot::StorageChange change = VOLT_TRY(snapshot::unpack(store, reference, threads));
  if (arguments.json()) {
    VOLT_TRY(print_json(change_json("volt.snapshot.unpack/v1", reference, change)));
    return 0;
  }
  VOLT_TRY(print_text(change.changed ? "unpacked " + reference.text() + ": " +
                                           human_size(change.written_bytes) + " written\n"
                                     : reference.text() + " is raw already\n"));
  return 0;
}

Result<int> compact(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const snapshot::Storage into = VOLT_TRY(storage_of(arguments));
  const snapshot::PackOptions options = VOLT_TRY(pack_options(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  progress("folding " + reference.text() + " ...");
  const snapshot::StorageChange change =
      VOLT_TRY(snapshot::compact(store, reference, into, options));
  if (arguments.json()) {
    auto json = change_json("volt.snapshot.compact/v1", reference, change);
    json["storage"] = snapshot::storage_name(into);
    VOLT_TRY(print_json(json));
    return 0;
  }
  const std::string form = snapshot::storage_name(into);
  VOLT_TRY(print_text(change.changed
                          ? "folded " + reference.text() + " into " + form +
                                " storage: " + std::to_string(change.units) + " units, " +
                                human_size(change.written_bytes) + " written\n"
                          : reference.text() + " is " + form + " and on its own already\n"));
  return 0;
}

Result<int> prune(const Arguments& arguments) {
  snapshot::PruneOptions options;
  options.dry_run = arguments.has("--dry-run");
  const std::uint64_t percent = VOLT_TRY(arguments.number("--dead", options.dead_percent));
  if (percent < 1 || percent > 100) return fail(Code::kInvalid, "--dead: from 1 to 100");
  options.dead_percent = static_cast<unsigned>(percent);
  options.pack = VOLT_TRY(pack_options(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  progress("looking for what nobody needs ...");
  const snapshot::Pruned pruned = VOLT_TRY(snapshot::prune(store, options));
  const char* verb = options.dry_run ? "would remove " : "removed ";
  nlohmann::ordered_json items = nlohmann::ordered_json::array();
  std::string text;
  for (const snapshot::Pruned::Item& item : pruned.removed) {
    items.push_back({{"what", item.what}, {"bytes", item.bytes}});
    text += verb + item.what + (item.bytes > 0 ? ", " + human_size(item.bytes) : "") + "\n";
  }
  text += (options.dry_run ? "would free " : "freed ") + human_size(pruned.bytes);
  if (pruned.kept_dead_bytes > 0) {
    text += "; " + human_size(pruned.kept_dead_bytes) +
            " stay dead in packs that are mostly alive (--dead 1 writes them anew)";
  }
  VOLT_TRY(arguments.json() ? print_json({{"schema", "volt.snapshot.prune/v1"},
                                          {"dry_run", options.dry_run},
                                          {"freed_bytes", pruned.bytes},
                                          {"kept_dead_bytes", pruned.kept_dead_bytes},
                                          {"items", std::move(items)}})
                            : print_text(text + "\n"));
  return 0;
}

// A snapshot in the tree of who was captured from whose clone.
struct Node {
  std::vector<std::string> names;
  std::string parent;  // digest in hex; empty: booted
  snapshot::Usage usage;
};

Result<std::map<std::string, Node>> nodes_of(const snapshot::Store& store) {
  std::map<std::string, Node> nodes;
  const snapshot::UsageCount count = VOLT_TRY(snapshot::count_usage(store));
  for (const snapshot::ListedSnapshot& each : VOLT_TRY(store.list())) {
    Node& node = nodes[each.digest_hex];
    node.names.push_back(each.reference.text());
    if (node.names.size() > 1) continue;
    const auto opened = snapshot::OpenedSnapshot::open(store, each.reference);
    if (!opened) continue;
    node.parent = formats::to_hex(std::as_bytes(std::span(opened->manifest().parent())));
    node.usage = VOLT_TRY(count.of(*opened));
  }
  return nodes;
}

class TreePrinter {
 public:
  explicit TreePrinter(const std::map<std::string, Node>& nodes) : nodes_(nodes) {}

  // Roots are those whose parent is not here.
  void print() {
    for (const auto& [digest, node] : nodes_) {
      if (!nodes_.contains(node.parent)) add(digest, node, "");
    }
  }
  std::string text;
  nlohmann::ordered_json items = nlohmann::ordered_json::array();

 private:
  void add(const std::string& digest, const Node& node, const std::string& indent) {
    std::string names;
    for (const std::string& name : node.names) names += (names.empty() ? "" : ", ") + name;
    text += indent + names + "  " + digest.substr(0, 12) + "  " +
            human_size(node.usage.stored_bytes) + " stored, " +
            human_size(node.usage.unique_bytes()) + " its own";
    if (!node.parent.empty() && !nodes_.contains(node.parent)) {
      text += "  (from " + node.parent.substr(0, 12) + ", which is not here)";
    }
    text += "\n";
    items.push_back(
        {{"names", node.names},
         {"digest", "sha256:" + digest},
         {"parent", node.parent.empty() ? nlohmann::ordered_json(nullptr)
                                        : nlohmann::ordered_json("sha256:" + node.parent)},
         {"depth", indent.size() / 2},
         {"stored_bytes", node.usage.stored_bytes},
         {"shared_bytes", node.usage.shared_bytes},
         {"unique_bytes", node.usage.unique_bytes()}});
    for (const auto& [child_digest, child] : nodes_) {
      if (child.parent == digest) add(child_digest, child, indent + "  ");
    }
  }

  const std::map<std::string, Node>& nodes_;
};

Result<int> tree(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  const auto nodes = VOLT_TRY(nodes_of(store));
  TreePrinter printer(nodes);
  printer.print();
  if (printer.text.empty()) printer.text = "no snapshots\n";
  VOLT_TRY(arguments.json() ? print_json({{"schema", "volt.snapshot.tree/v1"},
                                          {"items", std::move(printer.items)}})
                            : print_text(printer.text));
  return 0;
}

}  // namespace

const Command kSnapshotPack = {
    .path = "snapshot pack",
    .operands = "REF",
    .summary = "store a snapshot's memory compressed and shared",
    .details =
        "The snapshot stays what it is, digest included; clones that run go on.\n"
        "Memory that another packed snapshot has already is not stored again. What a restored\n"
        "guest touches first, if a hot set was recorded, goes to the front of the pack in that\n"
        "order; one recorded after packing takes effect with --relayout, which leaves alone\n"
        "what other snapshots share.\n",
    .example = "volt snapshot pack demo --level 3",
    .options = kPackOptions,
    .least = 1,
    .most = 1,
    .run = pack};

const Command kSnapshotUnpack = {
    .path = "snapshot unpack",
    .operands = "REF",
    .summary = "store a snapshot's memory as one raw file, for loader map",
    .details = "The snapshot stays what it is, digest included; clones that run go on.\n",
    .example = "volt snapshot unpack demo",
    .options = kUnpackOptions,
    .least = 1,
    .most = 1,
    .run = unpack};

const Command kSnapshotCompact = {
    .path = "snapshot compact",
    .operands = "REF",
    .summary = "make a difference stand alone, without older snapshots' layers",
    .details =
        "The snapshot stays what it is, digest included; clones that run go on. Stored raw it\n"
        "can be restored with loader map again. Its parents lose nothing.\n",
    .example = "volt snapshot compact demo",
    .options = kCompactOptions,
    .least = 1,
    .most = 1,
    .run = compact};

const Command kSnapshotPrune = {
    .path = "snapshot prune",
    .operands = "",
    .summary = "give back disk space that no snapshot needs",
    .details = "What killed commands left, packs without users, and packs that are mostly dead.\n",
    .example = "volt snapshot prune --dry-run",
    .options = kPruneOptions,
    .least = 0,
    .most = 0,
    .run = prune};

const Command kSnapshotTree = {.path = "snapshot tree",
                               .operands = "",
                               .summary = "show which snapshot was captured from whose clone",
                               .details = "",
                               .example = "volt snapshot tree",
                               .options = {},
                               .least = 0,
                               .most = 0,
                               .run = tree};

}  // namespace volt::tools
