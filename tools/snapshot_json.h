// One snapshot as a document: what ls and inspect show.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "snapshot/usage.h"

namespace volt::tools {

nlohmann::ordered_json snapshot_json(const snapshot::OpenedSnapshot& opened,
                                     const snapshot::Reference& reference,
                                     const snapshot::Usage& usage);
// The same with everything the files hold: regions, registers, record of compatibility.
nlohmann::ordered_json inspect_json(const snapshot::OpenedSnapshot& opened,
                                    const snapshot::Reference& reference,
                                    const snapshot::Usage& usage);

}  // namespace volt::tools
