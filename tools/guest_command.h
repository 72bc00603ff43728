// A command in a Linux guest, with this process's streams as its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/agent_client.h"
#include "vmm/interrupt.h"

namespace volt::tools {

struct GuestUser {
  std::uint32_t uid = 0, gid = 0;
};

struct GuestCommand {
  std::vector<std::string> words;
  std::vector<std::string> variables;  // NAME=VALUE
  std::string directory;
  GuestUser user;
  bool tty = false;    // on a terminal of its own; this process's becomes raw meanwhile
  bool alone = false;  // without input, and all its output is talk (stderr)
};

// Its exit code, as a shell tells it. Signals that ask to stop are passed on to it. `first_byte_ns`
// is when its first output came (CLOCK_MONOTONIC), 0 if there was none.
struct GuestExit {
  int code = 0;
  std::uint64_t first_byte_ns = 0;
};
// kInvalid for what no guest can run.
Result<> check_command(const GuestCommand& command);
Result<GuestExit> run_in_guest(vmm::AgentConnection agent, const GuestCommand& command,
                               vmm::Deadline deadline);

}  // namespace volt::tools
