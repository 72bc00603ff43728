// One snapshot as a document: what ls and inspect show.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "snapshot/opened.h"

namespace volt::tools {

nlohmann::ordered_json snapshot_json(const snapshot::OpenedSnapshot& opened,
                                     const snapshot::Reference& reference);
// The same with everything the files hold: regions, registers, record of compatibility.
nlohmann::ordered_json inspect_json(const snapshot::OpenedSnapshot& opened,
                                    const snapshot::Reference& reference);

}  // namespace volt::tools
