// volt version
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/output.h"
#include "vmm/guest_abi.h"

namespace volt::tools {
namespace {

Result<int> print_version(const Arguments& arguments) {
  if (!arguments.json()) {
    VOLT_TRY(print_text("volt " VOLT_VERSION "\n"));
    return 0;
  }
  VOLT_TRY(print_json({{"schema", "volt.version/v1"},
                       {"version", VOLT_VERSION},
                       {"guest_abi", guest_abi::kVersion},
                       {"compiler", __VERSION__}}));
  return 0;
}

}  // namespace

const Command kVersion = {.path = "version",
                          .operands = "",
                          .summary = "which volt this is",
                          .details = "",
                          .example = "volt version --json",
                          .options = {},
                          .least = 0,
                          .most = 0,
                          .run = print_version};

}  // namespace volt::tools
