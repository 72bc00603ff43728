// volt snapshot restore: N clones one after another, each of which must answer, and what each step
// took.
#include <nlohmann/json.hpp>

#include "snapshot/restore.h"
#include "snapshot/working_set.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/guest_call.h"
#include "tools/output.h"
#include "tools/restore_report.h"
#include "tools/size.h"
#include "tools/working_set_sum.h"

namespace volt::tools {
namespace {

constexpr Option kRestoreOptions[] = {
    {"--count", "N", "how many clones, one after another (1)"},
    kLoaderOption,
    kHotSetOption,
    kPagerOption,
    kIsolateOption,
    kHandlerOption,
    {"--verify", "", "check every page before a guest runs, and its whole working set after"},
    kTimeoutOption,
};
constexpr std::uint64_t kMaxCount = 1'000'000;

struct Report {
  PhaseSamples samples;
  snapshot::ChosenLoader loader;
  nlohmann::ordered_json hot_set;  // of the last clone
  std::uint64_t verified = 0;
  bool from_seed = false;  // what was expected came from the seed, not from the capture's sums
  std::optional<Served> served;  // the last clone, by a pager in this process
};

// Whether the clone's memory is what was captured: its first page, and all of it where asked for.
Result<bool> is_right(snapshot::Restored& restored, const vmm::Reply& health, bool scan,
                      std::uint64_t expected, vmm::Deadline deadline) {
  const formats::v1::Guest& guest = restored.sandbox->facts().guest;
  if (health.checksum != guest.health_checksum()) return false;
  const std::uint64_t pages = guest.working_set_bytes() / guest_abi::kPageBytes;
  if (!scan || pages == 0) return true;
  const std::uint64_t words[] = {0, pages};
  const vmm::Reply reply = VOLT_TRY(restored.sandbox->call(
      make_call(guest_abi::Function::kScan, words), deadline, print_guest_log()));
  return reply.checksum == expected;
}

// What all clones must answer: to a scan, or to the first call.
Result<std::uint64_t> expected_sum(const snapshot::Sandbox& sandbox, bool scan) {
  const formats::v1::Guest& guest = sandbox.facts().guest;
  if (!scan) return guest.health_checksum();
  const std::uint64_t sum = expected_scan(guest);
  if (sum != 0) return sum;
  // A difference was captured without reading what it left alone: that is done now.
  if (sandbox.origin().snapshot != nullptr) {
    return snapshot::working_set_sum(*sandbox.origin().snapshot);
  }
  return fail(Code::kInvalid,
              "--verify: the working set of this difference was never summed, and who sums it has "
              "to read the store, without --pager and --uffd-handler");
}

Result<Report> restore_all(const Arguments& arguments, const snapshot::Reference& reference) {
  const std::uint64_t count = VOLT_TRY(arguments.number("--count", 1));
  if (count == 0 || count > kMaxCount) return fail(Code::kInvalid, "--count: 1 to 1000000");
  const bool verify = arguments.has("--verify");
  snapshot::RestoreOptions options = VOLT_TRY(restore_options(arguments));
  if (verify) options.verify = snapshot::RestoreOptions::Verify::kEverythingFirst;
  VOLT_TRY(deadline_of(arguments));  // what is wrong with it is said before KVM is asked for
  const snapshot::Store store = VOLT_TRY(restore_store(arguments));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  const vmm::Call health = make_call(guest_abi::Function::kHealth, {});
  Report report;
  std::optional<std::uint64_t> expected;
  snapshot::Reference pinned = reference;  // all clones are of one snapshot, whoever gets its name
  for (std::uint64_t i = 0; i < count; ++i) {
    VOLT_TRY(vmm::check_stop());
    const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
    snapshot::Restored restored = VOLT_TRY(snapshot::restore(kvm, store, pinned, options));
    if (!pinned.digest) pinned.digest = restored.sandbox->parent();
    const vmm::Reply reply =
        VOLT_TRY(snapshot::first_call(restored, health, deadline, print_guest_log()));
    report.samples.add(restored.phases);
    report.loader = restored.loader;
    const formats::v1::Guest& guest = restored.sandbox->facts().guest;
    if (!expected) expected = VOLT_TRY(expected_sum(*restored.sandbox, verify));
    report.from_seed = verify && guest.calls_size() == 0;
    if (VOLT_TRY(is_right(restored, reply, verify, *expected, deadline))) ++report.verified;
    VOLT_TRY(keep_recording(store, restored, options.hot_set));
    if (i + 1 == count) report.hot_set = hot_set_json(restored);
    report.served = served_of(*restored.sandbox);
    if ((i + 1) % 50 == 0 && i + 1 < count) {
      progress(std::to_string(i + 1) + " of " + std::to_string(count) + " restored");
    }
  }
  return report;
}

std::string hot_set_line(const nlohmann::ordered_json& json) {
  if (json["role"] == "off") return "";
  std::string line = "hot set: " + json["role"].get<std::string>() + " (" +
                     json["why"].get<std::string>() + "), " + json["pages"].dump() + " pages";
  for (const char* key : {"hits", "misses", "waste"}) {
    if (json.contains(key)) line += ", " + json[key].dump() + " " + key;
  }
  return line + "\n";
}

std::string text_of(const Report& report, const snapshot::Reference& reference) {
  const std::size_t count = report.samples.total.count();
  std::string text = reference.text() + ": " + std::to_string(report.verified) + " of " +
                     std::to_string(count) + " verified, loader " +
                     snapshot::loader_name(report.loader.loader) + " (" + report.loader.why +
                     ")\n" + hot_set_line(report.hot_set) +
                     (report.served ? served_line(*report.served) : "") + "\n" +
                     table_head("phase", {"p50 us", "p99 us", "max us"});
  const auto row = [](const char* name, const Samples& samples) {
    return table_row(name, {samples.quantile(0.5), samples.quantile(0.99), samples.quantile(1)});
  };
  for (std::size_t i = 0; i < kPhases.size(); ++i) {
    text += row(kPhases[i].name, report.samples.phases[i]);
  }
  text += row("total", report.samples.total);
  if (count > 1) text += table_row("first total", {report.samples.total.first()});
  return text;
}

nlohmann::ordered_json json_of(const Report& report, const snapshot::Reference& reference) {
  nlohmann::ordered_json phases;
  for (std::size_t i = 0; i < kPhases.size(); ++i) {
    phases[kPhases[i].name] = report.samples.phases[i].json();
  }
  nlohmann::ordered_json json = {{"schema", "volt.restore/v1"},
                                 {"snapshot", reference.text()},
                                 {"count", report.samples.total.count()},
                                 {"verified", report.verified},
                                 {"expected_from", report.from_seed ? "seed" : "capture"},
                                 {"loader", loader_json(report.loader)},
                                 {"hot_set", report.hot_set},
                                 {"phases_us", std::move(phases)},
                                 {"total_us", report.samples.total.json()}};
  if (report.served) {
    json["last_clone_faults"] = faults_json(report.served->faults);
    json["last_clone_source"] = source_json(*report.served);
  }
  return json;
}

Result<int> restore_snapshot(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const Report report = VOLT_TRY(restore_all(arguments, reference));
  const std::size_t count = report.samples.total.count();
  if (report.verified != count) {
    return fail(Code::kCorrupt, std::to_string(count - report.verified) + " of " +
                                    std::to_string(count) + " clones of " + reference.text() +
                                    " have other memory than was captured");
  }
  VOLT_TRY(arguments.json() ? print_json(json_of(report, reference))
                            : print_text(text_of(report, reference)));
  return 0;
}

}  // namespace

const Command kSnapshotRestore = {
    .path = "snapshot restore",
    .operands = "REF",
    .summary = "restore clones, make each answer, report what each step took",
    .details =
        "Each clone answers a health call with a checksum of its first page, which is compared "
        "with\n"
        "what was captured; with --verify the checksum covers its whole working set.\n",
    .example = "volt snapshot restore demo --count 200 --verify",
    .options = kRestoreOptions,
    .least = 1,
    .most = 1,
    .run = restore_snapshot};

}  // namespace volt::tools
