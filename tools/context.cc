#include "tools/context.h"

#include <sys/sysinfo.h>

#include <cstdlib>

#include "formats/digest.h"
#include "tools/guest/micro_image.h"
#include "tools/size.h"

namespace volt::tools {
namespace {

constexpr std::uint64_t kDefaultWorkingSet = 64 << 20;
constexpr std::uint64_t kMaxTimeoutSeconds = 7 * 24 * 3600;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A working set that the guest or this machine could never hold is refused before anything is
// allocated.
Result<> check_working_set(std::uint64_t working_set, std::uint64_t ram) {
  if (working_set % guest_abi::kPageBytes != 0) {
    return fail(Code::kInvalid, "--working-set: a multiple of 4 KiB is expected");
  }
  if (working_set >= ram) {
    return fail(Code::kInvalid, "--working-set " + human_size(working_set) +
                                    " does not fit into --memory " + human_size(ram));
  }
  struct sysinfo info;
  if (::sysinfo(&info) != 0) return sys_error("sysinfo");
  const std::uint64_t total = std::uint64_t{info.totalram} * info.mem_unit;
  if (working_set > total) {
    return fail(Code::kInvalid, "--working-set " + human_size(working_set) + ": this machine has " +
                                    human_size(total) + " of memory");
  }
  return {};
}

}  // namespace

Result<snapshot::Store> open_store() {
  std::string path = environment("VOLT_DATA_DIR");
  if (path.empty()) {
    std::string base = environment("XDG_DATA_HOME");
    if (base.empty()) {
      base = environment("HOME");
      if (base.empty()) {
        return fail(Code::kInvalid, "no data directory: set VOLT_DATA_DIR, XDG_DATA_HOME or HOME");
      }
      base += "/.local/share";
    }
    path = base + "/volt";
  }
  return snapshot::Store(path);
}

Result<vmm::Deadline> deadline_of(const Arguments& arguments) {
  const std::uint64_t seconds = VOLT_TRY(arguments.number("--timeout", 60));
  if (seconds == 0 || seconds > kMaxTimeoutSeconds) {
    return fail(Code::kInvalid, "--timeout: 1 second to 7 days");
  }
  return vmm::Deadline::in_ms(seconds * 1000);
}

Result<vmm::Deadline> limit_of(const Arguments& arguments) {
  return arguments.has("--timeout") ? deadline_of(arguments) : vmm::Deadline{};
}

Result<snapshot::BootRequest> boot_request(const Arguments& arguments) {
  snapshot::BootRequest request = {.image = micro_image(), .config = {}};
  vmm::BootConfig& config = request.config;
  config.workload = VOLT_TRY(snapshot::parse_workload(arguments.get("--workload", "kv")));
  const bool echo = config.workload == guest_abi::Workload::kEcho;
  config.ram_bytes = VOLT_TRY(arguments.size("--memory", kDefaultMemory));
  config.working_set_bytes =
      VOLT_TRY(arguments.size("--working-set", echo ? 0 : kDefaultWorkingSet));
  config.seed = VOLT_TRY(arguments.number("--seed", 1));
  if (echo && config.working_set_bytes != 0) {
    return fail(Code::kInvalid, "--working-set: the echo workload has none");
  }
  VOLT_TRY_IN("--memory", vmm::ram_layout(config.ram_bytes));
  VOLT_TRY(check_working_set(config.working_set_bytes, config.ram_bytes));
  return request;
}

Result<snapshot::BootedSandbox> boot_guest(const vmm::Kvm& kvm, const Arguments& arguments,
                                           vmm::Deadline deadline) {
  const snapshot::BootRequest request = VOLT_TRY(boot_request(arguments));
  return snapshot::boot_sandbox(kvm, request, deadline);
}

std::string digest_text(std::span<const std::byte> digest) {
  return "sha256:" + formats::to_hex(digest);
}

}  // namespace volt::tools
