// Another program, timed from its spawn: when its first byte of output came, and when it ended.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/interrupt.h"
#include "vmm/os/error.h"

namespace volt::tools {

struct TimedProgram {
  std::string path;
  std::vector<std::string> words;      // its own name first
  std::vector<std::string> variables;  // NAME=VALUE, before those of this process
};

struct ProgramTimes {
  int status = 0;                   // exit status; 128 + the signal that killed it
  std::uint64_t first_byte_ns = 0;  // on stdout, since the spawn; 0 if there was none
  std::uint64_t exit_ns = 0;        // since the spawn
  std::string out, err;             // no more than a MiB of each
};

// With nothing on stdin. It is killed at the deadline (kDeadline), once the user asks to stop
// (kInterrupted), and with this process.
Result<ProgramTimes> time_program(TimedProgram program, vmm::Deadline deadline);

// Where $PATH has it; empty if nowhere.
std::string find_program(const std::string& name);

}  // namespace volt::tools
