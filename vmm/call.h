// Calls: one request into the guest, its host calls served on the way, one checked reply out.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/machine.h"

namespace volt::vmm {

// What the host does for a guest that calls it back.
struct HostServices {
  std::function<void(std::string_view)> log = [](std::string_view) {};
};

struct Call {
  guest_abi::Function function;
  std::vector<std::byte> arguments;
};

// Writes the request: the guest finds it at its next instruction.
Result<> begin_call(Machine& machine, const Call& call);
// Runs the guest until it has answered.
Result<Reply> finish_call(Machine& machine, Deadline deadline, const HostServices& services);

// Both, and kInvalid where the guest says that the function or its arguments are wrong.
Result<Reply> call_guest(Machine& machine, const Call& call, Deadline deadline,
                         const HostServices& services);
Result<> check_status(const Reply& reply);

// Answers the host call that the guest has just rung for.
Result<> serve_host_call(Machine& machine, const HostServices& services);

}  // namespace volt::vmm
