// Programs of a directory that are run one after the other, each to its end.
#pragma once

#include <cstdint>

#include "tools/guest/init/log.h"

namespace volt::init {

enum class Order { kForward, kReverse };

// False at the first that does not end with 0 in time (of now_ms()); it is then killed with all it
// started. No such directory is no hooks. VOLT_EVENT of each is `event`.
bool run_hooks(const char* directory, const char* event, Order order, std::int64_t deadline_ms,
               Failure& failure);

inline constexpr char kBeforeSnapshot[] = "/etc/volt/hooks/before-snapshot.d";
inline constexpr char kAfterRestore[] = "/etc/volt/hooks/after-restore.d";

}  // namespace volt::init
