// Frames of the guest's agent (vmm/agent_abi.h) from and to bytes. Pure. What a guest sends is
// hostile: its type, its length and every field is checked, and an error (kCorrupt, or kUnsupported
// for another version) begins with "agent: ".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "vmm/agent_abi.h"
#include "vmm/os/error.h"

namespace volt::vmm {

// ---- From the guest.

struct AgentOutput {
  bool is_error = false;             // of the command's stderr
  std::span<const std::byte> bytes;  // inside the frame
};

struct AgentExit {
  bool by_signal = false;
  int value = 0;  // the code, 0 to 255; or the signal's number

  // As a shell tells it: 128 and the signal.
  int shell_code() const { return by_signal ? 128 + value : value; }
};

struct AgentFailure {
  int error = 0;  // errno of the guest
  agent_abi::Stage stage = agent_abi::Stage::kRequest;
  std::string text;  // printable
};

using AgentFrame =
    std::variant<agent_abi::Ready, agent_abi::Started, AgentOutput, agent_abi::Credit, AgentExit,
                 agent_abi::Frozen, agent_abi::Resumed, AgentFailure>;

// `bytes` are a Head's. An error unless the guest may send a frame of this type and length.
Result<agent_abi::Head> decode_agent_head(
    std::span<const std::byte, sizeof(agent_abi::Head)> bytes);
// `payload` is as long as the head says.
Result<AgentFrame> decode_agent_frame(const agent_abi::Head& head,
                                      std::span<const std::byte> payload);

// ---- To the guest. kInvalid if it fits into no frame.

struct AgentCommand {
  std::vector<std::string> arguments;       // the program first; without a slash it is looked for
  std::vector<std::string> variables = {};  // NAME=VALUE, besides or instead of the agent's own
  std::string directory = {};               // empty: /
  std::uint32_t uid = 0, gid = 0;
  std::optional<agent_abi::Resize> terminal = {};  // one of this size instead of pipes
};

struct AgentIdentity {
  std::array<std::uint8_t, 16> generation;
  std::array<std::uint8_t, 64> entropy;
  std::uint64_t wall_ns;
  std::uint64_t tsc = 0, tsc_khz = 0;  // the guest's counter at that moment, if it is known
  std::string hostname;                // empty: the guest keeps its own
};

Result<std::vector<std::byte>> encode_exec(const AgentCommand& command);
Result<std::vector<std::byte>> encode_resume(const AgentIdentity& identity,
                                             std::uint32_t timeout_ms);
// `payload` is one of the contract's structs, or bytes; it fits into a frame.
std::vector<std::byte> encode_agent_frame(agent_abi::Type type, std::span<const std::byte> payload);

}  // namespace volt::vmm
