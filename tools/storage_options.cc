#include "tools/storage_options.h"

#include <string>

namespace volt::tools {

Result<unsigned> threads_of(const Arguments& arguments) {
  const std::uint64_t threads =
      VOLT_TRY(arguments.number("--threads", snapshot::default_threads()));
  if (threads < 1 || threads > 64) return fail(Code::kInvalid, "--threads: from 1 to 64");
  return static_cast<unsigned>(threads);
}

Result<snapshot::PackOptions> pack_options(const Arguments& arguments) {
  const std::uint64_t level =
      VOLT_TRY(arguments.number("--level", static_cast<std::uint64_t>(snapshot::kDefaultLevel)));
  if (level < 1 || level > snapshot::kMaxLevel) {
    return fail(Code::kInvalid, "--level: from 1 to " + std::to_string(snapshot::kMaxLevel));
  }
  return snapshot::PackOptions{.level = static_cast<int>(level),
                               .threads = VOLT_TRY(threads_of(arguments))};
}

Result<snapshot::Storage> storage_of(const Arguments& arguments) {
  return snapshot::parse_storage(arguments.get("--store", "raw"));
}

}  // namespace volt::tools
