// volt snapshot create: boots (or restores) a guest, calls it if asked to, captures it.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "formats/manifest.h"
#include "snapshot/capture.h"
#include "snapshot/memory_writer.h"
#include "snapshot/restore.h"
#include "tools/balloon.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/guest_call.h"
#include "tools/linux_guest.h"
#include "tools/linux_snapshot.h"
#include "tools/output.h"
#include "tools/run_report.h"
#include "tools/size.h"
#include "tools/storage_options.h"

namespace volt::tools {
namespace {

constexpr Option kCreateOptions[] = {
    {"--name", "NAME[:TAG]", "what to call it (tag: latest)"},
    kWorkloadOption,
    kMemoryOption,
    kWorkingSetOption,
    kSeedOption,
    {"--after", "'FUNCTION ARGS'", "then call this (Linux: a line for its shell); may be repeated"},
    {"--from", "REF", "capture a clone of this snapshot instead of a fresh boot"},
    {"--mode", "full|diff", "with --from, diff: store only the units that changed (full)"},
    {"--label", "K=V", "keep this with the snapshot; may be repeated"},
    {"--unit", "SIZE", "what memory is summed and fetched by, 4K to 2M (64K or the parent's)"},
    {"--replace", "", "take the name over if a snapshot has it already"},
    kStoreOption,
    kLevelOption,
    kThreadsOption,
    kKernelOption,
    kInitrdOption,
    kCmdlineOption,
    kCpusOption,
    kCpuTemplateOption,
    kBootOption,
    kVsockOption,
    kBalloonOption,
    kSettleOption,
    kTimeoutOption,
};

constexpr char kDefaultMode[] = "full";

// What a difference is, for those who ask for help.
constexpr char kCreateDetails[] =
    "--mode diff keeps the units of memory that did not change where the parent has them: files\n"
    "that both then own, so either may be removed, renamed or stored anew. Such a snapshot is\n"
    "restored with loader uffd or copy; `volt snapshot compact` makes it one file for loader map.\n"
    "Only what the clone wrote is read. Where userfaultfd is missing and the parent is no raw\n"
    "file, the clone is a copy and all of its memory is compared with the parent's.\n";
// What is different for Linux guests.
constexpr char kCreateLinux[] =
    "With --kernel the guest is Linux: captured once its agent has started all services (one that\n"
    "fails fails the command) and each --after, a line for /bin/sh in it, has ended with 0:\n"
    "  volt snapshot create --kernel latest --initrd root.cpio.gz --name py --after 'python3 -V'\n"
    "Its processes are frozen meanwhile, and memory that it has freed is not kept (--settle).\n"
    "--vsock PATH is the way to what listens in it before that.\n\n";
const std::string kCreateHelp = std::string(kCreateLinux) + kFunctionHelp + kCreateDetails;

// What is to be captured, and how a Linux guest came to it.
struct Made {
  std::unique_ptr<snapshot::Sandbox> sandbox;
  nlohmann::ordered_json phases = nullptr;
};

Result<Made> restore_parent(const OpenedKvm& opened, const snapshot::Store& store,
                            const Arguments& arguments, vmm::Deadline deadline) {
  const auto parent = VOLT_TRY(snapshot::Reference::parse(arguments.get("--from")));
  progress("restoring " + parent.text() + " ...");
  const bool is_linux = VOLT_TRY(is_linux_snapshot(store, parent));
  // Not verified first: the capture checks every byte of the parent that goes into the child.
  snapshot::Restored restored =
      VOLT_TRY(is_linux ? restore_linux(opened.kvm, store, parent, arguments, deadline)
                        : snapshot::restore(opened.kvm, store, parent, {}));
  Made made = {.sandbox = std::move(restored.sandbox)};
  if (is_linux) made.phases = phases_json(opened, restored.phases);
  return made;
}

Result<Made> make_sandbox(const OpenedKvm& opened, const snapshot::Store& store,
                          const Arguments& arguments, vmm::Deadline deadline) {
  if (arguments.has("--from")) return restore_parent(opened, store, arguments, deadline);
  if (!arguments.has("--kernel")) {
    progress("booting the guest ...");
    snapshot::BootedSandbox booted = VOLT_TRY(boot_guest(opened.kvm, arguments, deadline));
    return Made{.sandbox = std::move(booted.sandbox)};
  }
  const LinuxRequest request = VOLT_TRY(linux_request(arguments, true));
  pc::LinuxBoot boot = VOLT_TRY(boot_linux(opened.kvm, request, deadline));
  if (boot.failed_services > 0) {  // they would be missing in every clone
    return std::unexpected(boot.machine->explained(
        {Code::kGuestCrashed, 0, std::to_string(boot.failed_services) + kServicesFailed}));
  }
  nlohmann::ordered_json phases = phases_json(opened, boot.phases_by_now());
  return Made{snapshot::linux_sandbox(std::move(boot), request.kernel.bytes()), std::move(phases)};
}

struct NamedCall {
  std::string text;  // as given, for the manifest
  vmm::Call call;    // of a micro guest
};

// Every --after, understood before anything boots.
Result<std::vector<NamedCall>> calls_after(const Arguments& arguments, bool is_linux) {
  std::vector<NamedCall> calls;
  for (const std::string& text : arguments.all("--after")) {
    std::istringstream stream(text);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    if (words.empty()) return fail(Code::kInvalid, "--after: a function is expected");
    if (text.size() > formats::kMaxStringBytes || !is_utf8(text)) {
      return fail(Code::kInvalid, "--after: at most 4096 bytes of UTF-8");
    }
    calls.push_back({text, {}});
    if (!is_linux) calls.back().call = VOLT_TRY_IN("--after", parse_call(words));
  }
  if (calls.size() > formats::kMaxCalls) return fail(Code::kInvalid, "--after: at most 1024");
  return calls;
}

Result<> make_calls(snapshot::Sandbox& sandbox, const std::vector<NamedCall>& calls,
                    vmm::Deadline deadline) {
  for (const auto& [text, call] : calls) {
    progress("calling " + text + " ...");
    if (sandbox.linux_machine() != nullptr) {
      VOLT_TRY_IN("--after '" + text + "'", run_after(sandbox, text, deadline));
    } else {
      VOLT_TRY_IN("--after " + text, sandbox.call(call, deadline, print_guest_log()));
    }
    sandbox.facts().guest.add_calls(text);
  }
  return {};
}

// What the guest does not use need not be captured.
Result<std::optional<Given>> take_spare_memory(const Arguments& arguments,
                                               snapshot::Sandbox& sandbox, vmm::Deadline deadline) {
  pc::LinuxMachine& machine = *sandbox.linux_machine();
  const std::optional<Given> given = VOLT_TRY(fill_balloon(arguments, machine, deadline));
  progress("waiting for memory that the guest has freed ...");
  VOLT_TRY(wait_for_freed_pages(arguments, machine, deadline));
  return given;
}

// The rule of formats/manifest.proto, said before the guest boots.
Result<> check_label(std::string_view text, std::string_view key, std::string_view value) {
  const bool named = std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
  if (named && !key.empty() && key.size() <= 63 && value.size() <= 255 && is_utf8(value)) {
    return {};
  }
  return fail(Code::kInvalid,
              "--label '" + std::string(text.substr(0, 80)) +
                  "': a key is 1 to 63 of [a-z0-9._-], a value at most 255 bytes of UTF-8");
}

Result<snapshot::CaptureOptions> capture_options(const Arguments& arguments) {
  snapshot::CaptureOptions options;
  if (arguments.has("--unit")) {
    options.unit_bytes = VOLT_TRY(arguments.size("--unit", 0));
    VOLT_TRY_IN("--unit", snapshot::check_unit_bytes(*options.unit_bytes));
  }
  if (arguments.has("--replace")) options.if_taken = snapshot::Store::IfTaken::kReplace;
  options.mode = VOLT_TRY(snapshot::parse_capture_mode(arguments.get("--mode", kDefaultMode)));
  options.storage = VOLT_TRY(storage_of(arguments));
  options.pack = VOLT_TRY(pack_options(arguments));
  for (const std::string& label : arguments.all("--label")) {
    const std::size_t equals = label.find('=');
    if (equals == std::string::npos) {
      return fail(Code::kInvalid, "--label '" + label + "': KEY=VALUE is expected");
    }
    const std::string key = label.substr(0, equals), value = label.substr(equals + 1);
    VOLT_TRY(check_label(label, key, value));
    if (!options.labels.emplace(key, value).second) {
      return fail(Code::kInvalid, "--label '" + key + "' is given twice");
    }
  }
  if (options.labels.size() > formats::kMaxLabels) {
    return fail(Code::kInvalid, "--label: at most " + std::to_string(formats::kMaxLabels));
  }
  return options;
}

Result<bool> will_be_linux(const snapshot::Store& store, const Arguments& arguments) {
  if (!arguments.has("--from")) return arguments.has("--kernel");
  const auto parent = VOLT_TRY(snapshot::Reference::parse(arguments.get("--from")));
  return is_linux_snapshot(store, parent);
}

Result<> check_options(const Arguments& arguments) {
  if (!arguments.has("--name")) return fail(Code::kInvalid, "--name is missing");
  if (arguments.has("--vsock") && arguments.get("--vsock").empty()) {
    return fail(Code::kInvalid, "--vsock: a path is missing");
  }
  const auto mode = VOLT_TRY(snapshot::parse_capture_mode(arguments.get("--mode", kDefaultMode)));
  if (!arguments.has("--from")) {
    if (arguments.has("--kernel")) {
      VOLT_TRY(refuse(kMicroOptions, arguments, ": for the built-in guest, not --kernel"));
    } else {
      VOLT_TRY(refuse(kBootOptions, arguments, ": for Linux guests (--kernel)"));
      VOLT_TRY(
          refuse({"--balloon", "--settle", "--vsock"}, arguments, ": for Linux guests (--kernel)"));
    }
    if (mode == snapshot::CaptureMode::kDiff) {
      return fail(Code::kInvalid, "--mode diff: without --from there is nothing to differ from");
    }
    if (!arguments.has("--kernel")) VOLT_TRY(boot_request(arguments));
    return {};
  }
  if (mode == snapshot::CaptureMode::kDiff && arguments.has("--unit")) {
    return fail(Code::kInvalid, "--unit: a difference has the units of its parent");
  }
  VOLT_TRY(refuse({"--kernel", "--memory"}, arguments, kFixedByFrom));
  VOLT_TRY(refuse(kMicroOptions, arguments, kFixedByFrom));
  return refuse(kBootOptions, arguments, kFixedByFrom);
}

std::string text_of(const snapshot::Reference& reference, const snapshot::Captured& captured,
                    std::uint64_t boot_us, bool is_linux) {
  const std::string name = reference.tag == "latest" ? reference.name : reference.text();
  std::string text = "created " + reference.text() + "\n  digest   " +
                     digest_text(captured.digest) + "\n  memory   ";
  if (captured.mode == snapshot::CaptureMode::kDiff) {
    const snapshot::UnitCounts& units = captured.units;
    text += human_size(captured.stored_bytes) + " written, " + human_size(captured.data_bytes) +
            " with the parent's, of " + human_size(captured.apparent_bytes) + "\n  units    " +
            std::to_string(units.taken_over) + " taken over, " + std::to_string(units.equal) +
            " equal, " + std::to_string(units.changed) + " changed\n";
  } else {
    text += human_size(captured.stored_bytes) + " stored of " +
            human_size(captured.apparent_bytes) + "\n";
  }
  if (!captured.full_because.empty()) {
    text += "  mode     full, not diff: " + captured.full_because + "\n";
  }
  text += "  replaces " + std::to_string(boot_us) + " us of booting\n";
  if (is_linux) return text + "run in it:   volt run --from " + name + " -- date\n";
  return text + "restore it:  volt snapshot restore " + name + "\ncall it:     volt call " + name +
         " health\n";
}

Result<int> create_snapshot(const Arguments& arguments) {
  const std::uint64_t begun_ns = process_begun_ns();
  VOLT_TRY(check_options(arguments));
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.get("--name")));
  if (reference.digest || reference.name.empty()) {
    return fail(Code::kInvalid, "--name: a name is chosen, a digest follows from the content");
  }
  const snapshot::CaptureOptions options = VOLT_TRY(capture_options(arguments));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  const bool is_linux = VOLT_TRY(will_be_linux(store, arguments));
  for (const char* option : {"--balloon", "--settle", "--vsock"}) {
    if (is_linux || !arguments.has(option)) continue;
    return fail(Code::kInvalid, std::string(option) + ": for Linux guests");
  }
  const std::vector<NamedCall> calls = VOLT_TRY(calls_after(arguments, is_linux));
  if (options.if_taken == snapshot::Store::IfTaken::kRefuse && store.exists(reference)) {
    return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
  }
  const OpenedKvm opened = VOLT_TRY(open_kvm(begun_ns));
  const Made made = VOLT_TRY(make_sandbox(opened, store, arguments, deadline));
  snapshot::Sandbox& sandbox = *made.sandbox;
  VOLT_TRY(make_calls(sandbox, calls, deadline));
  std::optional<Given> given;
  if (is_linux) given = VOLT_TRY(take_spare_memory(arguments, sandbox, deadline));
  progress("capturing ...");
  const snapshot::Captured captured = VOLT_TRY_IN(
      "capture",
      is_linux ? snapshot::capture_linux(opened.kvm, sandbox, store, reference, options, deadline)
               : snapshot::capture(opened.kvm, sandbox, store, reference, options));

  const std::uint64_t boot_us = sandbox.facts().boot_us;
  if (arguments.json()) {
    VOLT_TRY(print_json({{"schema", "volt.snapshot.create/v1"},
                         {"snapshot", reference.text()},
                         {"digest", digest_text(captured.digest)},
                         {"memory_digest", digest_text(captured.memory_digest)},
                         {"mode", snapshot::capture_mode_name(captured.mode)},
                         {"full_because", captured.full_because.empty()
                                              ? nlohmann::ordered_json(nullptr)
                                              : nlohmann::ordered_json(captured.full_because)},
                         {"storage", snapshot::storage_name(options.storage)},
                         {"stored_bytes", captured.stored_bytes},
                         {"data_bytes", captured.data_bytes},
                         {"apparent_bytes", captured.apparent_bytes},
                         {"units",
                          {{"taken_over", captured.units.taken_over},
                           {"equal", captured.units.equal},
                           {"changed", captured.units.changed}}},
                         {"boot_us", boot_us},
                         {"phases_us", made.phases},
                         {"balloon", balloon_json(given)},
                         {"capture_us",
                          {{"state", captured.state_ns / 1000},
                           {"memory", captured.memory_ns / 1000},
                           {"publish", captured.publish_ns / 1000}}}}));
    return 0;
  }
  if (is_linux) {
    progress((arguments.has("--from") ? "restored: " : "booted: ") + phases_line(made.phases));
  }
  VOLT_TRY(print_text(text_of(reference, captured, boot_us, is_linux)));
  return 0;
}

}  // namespace

const Command kSnapshotCreate = {
    .path = "snapshot create",
    .operands = "",
    .summary = "boot a guest to its ready point and keep it",
    .details = kCreateHelp.c_str(),
    .example = "volt snapshot create --name demo:v1 --working-set 64M --after 'put 5 99'",
    .options = kCreateOptions,
    .least = 0,
    .most = 0,
    .run = create_snapshot};

}  // namespace volt::tools
