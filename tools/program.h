// Runs another program to its end: what it printed, and whether it was content.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"

namespace volt::tools {

struct ProgramOutput {
  int status;        // exit status; 128 + the signal that killed it
  std::string text;  // stdout and stderr as they came; no more than a MiB of it
};

// In `directory`, in the C locale, with nothing on stdin. kNotFound if there is no such program;
// kInterrupted, and the program is ended, once the user asks to stop.
Result<ProgramOutput> run_program(const std::vector<std::string>& words,
                                  const std::string& directory);

// The last line that is not empty: where programs say why.
std::string last_line(std::string_view text);

}  // namespace volt::tools
