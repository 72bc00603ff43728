// What the host may send, checked. Pure: no system calls, no memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/agent_abi.h"

namespace volt::init {

using Bytes = std::span<const std::byte>;

// `why` is for the host's user; null if all is well.
struct Checked {
  int error = 0;
  const char* why = nullptr;
  explicit operator bool() const { return why == nullptr; }
};

// Of frames that a session of this kind may bring: the first, or one to a running command.
enum class Expected { kRequest, kCommandInput };
Checked check_head(const agent_abi::Head& head, Expected expected);

// Strings point into the payload.
struct Exec {
  agent_abi::ExecHead head;
  const char* directory;
  Bytes strings;  // arguments, then variables

  bool tty() const { return (head.flags & agent_abi::kExecTty) != 0; }
};
Checked decode(Bytes payload, Exec& into);

struct ResumeRequest {
  agent_abi::Resume head;
  const char* hostname;  // inside the payload
};
Checked decode(Bytes payload, ResumeRequest& into);
Checked decode(Bytes payload, agent_abi::Freeze& into);
Checked decode(Bytes payload, agent_abi::Shutdown& into);
Checked decode(Bytes payload, agent_abi::Signal& into);

}  // namespace volt::init
