// What a request can ask for, the same under every VMM: one function each, in one table.
#pragma once

#include <cstdint>

#include "tools/guest/micro/guest.h"
#include "vmm/guest_abi.h"

namespace volt::guest {

// Runs the function and writes all of its reply (ReplyHead and data) into the window. Returns where
// it is, for a Response; `seq` and the acknowledged generation are not touched.
struct Outcome {
  guest_abi::Status status;
  std::uint32_t offset;
  std::uint32_t bytes;
};
Outcome call_function(Guest& guest, const guest_abi::Request& request);

}  // namespace volt::guest
