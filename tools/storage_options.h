// Options of every command that stores memory.
#pragma once

#include "snapshot/storage.h"
#include "tools/options.h"

namespace volt::tools {

inline constexpr Option kStoreOption = {"--store", "raw|packed",
                                        "how its memory is stored (raw: fastest to restore)"};
inline constexpr Option kLevelOption = {"--level", "N", "how hard to compress, 1 to 19 (1)"};
inline constexpr Option kThreadsOption = {"--threads", "N",
                                          "threads that work on memory (one for each processor)"};

Result<unsigned> threads_of(const Arguments& arguments);
Result<snapshot::PackOptions> pack_options(const Arguments& arguments);
// --store; raw where it was not given.
Result<snapshot::Storage> storage_of(const Arguments& arguments);

}  // namespace volt::tools
