// A guest that the user sits at: its serial console on stdin and stdout until it ends, and its
// power button for the signals that ask us to stop.
#pragma once

#include <cstdint>

#include "tools/options.h"
#include "vmm/pc/linux_machine.h"

namespace volt::tools {

inline constexpr Option kConsoleOption = {"--console", "",
                                          "its serial console on stdin and stdout"};
inline constexpr Option kGraceOption = {
    "--grace", "SECONDS", "told to stop: press its power button, wait so long (0: end it)"};
Result<std::uint64_t> grace_seconds(const Arguments& arguments);

struct Attended {
  pc::Pc::End end;
  std::uint64_t first_byte_ns = 0;  // of what was shown
};

// Until the machine ends. kInterrupted: it was stopped, and had its time to end by itself.
Result<Attended> attend(pc::LinuxMachine& machine, bool console, std::uint64_t grace_s,
                        vmm::Deadline deadline);

}  // namespace volt::tools
