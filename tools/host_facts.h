// This host in a few words, for reports: figures mean little without them.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace volt::tools {

nlohmann::ordered_json host_facts_json();

}  // namespace volt::tools
