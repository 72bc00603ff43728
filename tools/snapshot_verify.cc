// volt snapshot verify: is what is stored what was stored? volt snapshot compat: can this host
// restore it?
#include <nlohmann/json.hpp>

#include "snapshot/compatibility.h"
#include "snapshot/verify.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

constexpr Option kVerifyOptions[] = {
    {"--deep", "", "check every unit of memory, not only heads and indexes"}};

Result<std::vector<snapshot::Reference>> what_to_verify(const snapshot::Store& store,
                                                        const Arguments& arguments) {
  std::vector<snapshot::Reference> references;
  for (const std::string& word : arguments.positional()) {
    references.push_back(VOLT_TRY(snapshot::Reference::parse(word)));
  }
  if (!references.empty()) return references;
  for (auto& each : VOLT_TRY(store.list())) references.push_back(std::move(each.reference));
  return references;
}

// A name that is there promises a whole snapshot: what is missing of it was lost. A listed name
// that is not there any more was removed meanwhile; that is no failure.
std::optional<Error> failure_of(const snapshot::Store& store, const snapshot::Reference& reference,
                                bool listed, Error error) {
  if (error.code != Code::kNotFound) return error;
  if (store.exists(reference)) {
    return Error{Code::kCorrupt, error.sys_errno, "its name is there, but " + error.context};
  }
  return listed ? std::nullopt : std::optional(std::move(error));
}

// The bad ones; the others are checked all the same, and one error names them all.
void add_failure(std::optional<Error>& all, Error error) {
  if (all) {
    all->context += "; " + error.context;
  } else {
    all = std::move(error);
  }
}

Result<int> verify(const Arguments& arguments) {
  const snapshot::Store store = VOLT_TRY(open_store());
  const bool deep = arguments.has("--deep");
  const snapshot::Depth depth = deep ? snapshot::Depth::kDeep : snapshot::Depth::kHeads;
  nlohmann::ordered_json items = nlohmann::ordered_json::array();
  std::string text;
  const bool all = arguments.positional().empty();
  std::optional<Error> failures;
  for (const snapshot::Reference& reference : VOLT_TRY(what_to_verify(store, arguments))) {
    progress("verifying " + reference.text() + " ...");
    const Result<snapshot::Verified> verified = snapshot::verify(store, reference, depth);
    if (!verified) {
      VOLT_TRY(vmm::check_stop());
      auto failure = failure_of(store, reference, all, verified.error());
      if (failure) add_failure(failures, std::move(*failure));
      continue;
    }
    items.push_back({{"name", reference.text()},
                     {"ok", true},
                     {"units_checked", verified->units},
                     {"bytes_read", verified->bytes_read}});
    text += reference.text() + ": good" +
            (deep ? ", " + human_size(verified->bytes_read) + " of memory read\n"
                  : ", heads and index (--deep checks the memory)\n");
  }
  if (all) {
    if (const Result<> packs = snapshot::verify_packs(store); !packs) {
      add_failure(failures, packs.error());
    }
  }
  if (failures) return std::unexpected(std::move(*failures));
  const std::vector<std::string> strays = VOLT_TRY(snapshot::find_strays(store));
  for (const std::string& stray : strays) text += "stray: " + stray + "\n";
  if (text.empty()) text = "no snapshots\n";
  VOLT_TRY(arguments.json() ? print_json({{"schema", "volt.snapshot.verify/v1"},
                                          {"deep", deep},
                                          {"items", std::move(items)},
                                          {"strays", strays}})
                            : print_text(text));
  return 0;
}

Result<int> compat(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const snapshot::Store store = VOLT_TRY(open_store());
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(store, reference));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  const auto differences = VOLT_TRY(snapshot::compare(opened.manifest(), opened.state(), kvm));
  const bool ok = differences.empty() || !differences[0].prevents;
  nlohmann::ordered_json items = nlohmann::ordered_json::array();
  std::string text =
      reference.text() + (ok ? ": this host can restore it\n" : ": this host cannot restore it\n");
  for (const snapshot::Difference& each : differences) {
    items.push_back({{"field", each.field},
                     {"snapshot", each.snapshot},
                     {"host", each.host},
                     {"prevents", each.prevents}});
    text += "  " + std::string(each.prevents ? "prevents: " : "differs:  ") + each.field +
            ": snapshot " + each.snapshot + ", host " + each.host + "\n";
  }
  VOLT_TRY(arguments.json() ? print_json({{"schema", "volt.snapshot.compat/v1"},
                                          {"name", reference.text()},
                                          {"compatible", ok},
                                          {"differences", std::move(items)}})
                            : print_text(text));
  return ok ? 0 : exit_code(Code::kUnsupported);
}

}  // namespace

const Command kSnapshotVerify = {
    .path = "snapshot verify",
    .operands = "[REF...]",
    .summary = "check snapshots, all of them without a REF",
    .details = "Also tells of anything in the data directory that belongs to no snapshot.\n",
    .example = "volt snapshot verify --deep demo",
    .options = kVerifyOptions,
    .least = 0,
    .most = -1,
    .run = verify};

const Command kSnapshotCompat = {
    .path = "snapshot compat",
    .operands = "REF",
    .summary = "tell whether this host can restore a snapshot, and what differs",
    .details = "Exits 5 if it cannot.\n",
    .example = "volt snapshot compat demo",
    .options = {},
    .least = 1,
    .most = 1,
    .run = compat};

}  // namespace volt::tools
