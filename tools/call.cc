// volt call: restores a snapshot, calls the clone once, prints, ends.
#include <nlohmann/json.hpp>

#include "snapshot/restore.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/guest_call.h"
#include "tools/output.h"
#include "tools/restore_report.h"

namespace volt::tools {
namespace {

constexpr Option kCallOptions[] = {kLoaderOption,  kHotSetOption,  kPagerOption,
                                   kIsolateOption, kHandlerOption, kTimeoutOption};

Result<int> call_function(const Arguments& arguments) {
  const std::span<const std::string> words = arguments.positional();
  const auto reference = VOLT_TRY(snapshot::Reference::parse(words[0]));
  const vmm::Call call = VOLT_TRY(parse_call(words.subspan(1)));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  const snapshot::RestoreOptions options = VOLT_TRY(restore_options(arguments));
  const snapshot::Store store = VOLT_TRY(restore_store(arguments));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  snapshot::Restored restored = VOLT_TRY(snapshot::restore(kvm, store, reference, options));
  const vmm::Reply reply =
      VOLT_TRY_IN(words[1], snapshot::first_call(restored, call, deadline, print_guest_log()));
  if (arguments.json()) {
    nlohmann::ordered_json json = {{"schema", "volt.call/v1"},
                                   {"snapshot", reference.text()},
                                   {"loader", loader_json(restored.loader)},
                                   {"hot_set", snapshot::role_name(restored.hot_set.role)},
                                   {"phases_us", phases_json(restored.phases)},
                                   {"reply", reply_json(call, reply)}};
    if (const auto served = served_of(*restored.sandbox)) {
      json["faults"] = faults_json(served->faults);
      json["source"] = source_json(*served);
    }
    VOLT_TRY(print_json(json));
  } else {
    VOLT_TRY(print_text(reply_text(call, reply)));
  }
  VOLT_TRY(keep_recording(store, restored, options.hot_set));
  // The kernel takes the VM down with the process; waiting for it would double the command's time.
  [[maybe_unused]] const snapshot::Sandbox* left = restored.sandbox.release();
  return 0;
}

}  // namespace

const Command kCall = {.path = "call",
                       .operands = "REF FUNCTION ARGS",
                       .summary = "restore a snapshot, call one function, print its answer",
                       .details = kFunctionHelp,
                       .example = "volt call demo get 5",
                       .options = kCallOptions,
                       .least = 2,
                       .most = -1,
                       .run = call_function};

}  // namespace volt::tools
