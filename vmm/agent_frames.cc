#include "vmm/agent_frames.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace volt::vmm {

namespace {

using agent_abi::Head;
using agent_abi::Type;

template <typename T>
T load(std::span<const std::byte> payload) {
  T value;
  std::memcpy(&value, payload.data(), sizeof value);
  return value;
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

bool from_guest(Type type) {
  return static_cast<std::uint32_t>(type) >= static_cast<std::uint32_t>(Type::kReady);
}

std::unexpected<Error> corrupt(const char* what) {
  return fail(Code::kCorrupt, std::string("agent: ") + what);
}

Result<AgentFrame> decode_exit(std::span<const std::byte> payload) {
  const auto exited = load<agent_abi::Exited>(payload);
  const bool code = exited.cause == static_cast<std::uint32_t>(agent_abi::ExitCause::kCode);
  const bool signal = exited.cause == static_cast<std::uint32_t>(agent_abi::ExitCause::kSignal);
  const bool right = (code && exited.value <= 255) ||
                     (signal && exited.value >= 1 && exited.value <= agent_abi::kMaxSignal);
  if (!right) return corrupt("EXITED: neither a code nor a signal");
  return AgentExit{signal, static_cast<int>(exited.value)};
}

Result<AgentFrame> decode_failure(std::span<const std::byte> payload) {
  constexpr std::uint32_t kMaxErrno = 4095;
  const auto failed = load<agent_abi::Failed>(payload);
  if (failed.error == 0 || failed.error > kMaxErrno) return corrupt("FAILED: no errno");
  if (failed.stage < static_cast<std::uint32_t>(agent_abi::Stage::kRequest) ||
      failed.stage > static_cast<std::uint32_t>(agent_abi::Stage::kHook))
    return corrupt("FAILED: no stage");
  AgentFailure failure = {
      static_cast<int>(failed.error), static_cast<agent_abi::Stage>(failed.stage), {}};
  // It goes to a user's terminal, which takes orders in control characters.
  for (const std::byte byte : payload.subspan(sizeof failed)) {
    const char letter = static_cast<char>(byte);
    failure.text += letter >= ' ' && letter <= '~' ? letter : '?';
  }
  return failure;
}

Result<AgentFrame> decode_ready(std::span<const std::byte> payload) {
  const auto ready = load<agent_abi::Ready>(payload);
  if (ready.version != agent_abi::kVersion)
    return fail(Code::kUnsupported, "agent: READY: it speaks version " +
                                        std::to_string(ready.version) + ", this is " +
                                        std::to_string(agent_abi::kVersion));
  return ready;
}

void append(std::vector<std::byte>& bytes, std::span<const std::byte> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

Result<> append_string(std::vector<std::byte>& bytes, std::string_view text) {
  if (text.contains('\0')) return fail(Code::kInvalid, "command: a NUL in one of its strings");
  append(bytes, std::as_bytes(std::span(text)));
  bytes.push_back({});
  return {};
}

Result<> check(const AgentCommand& command) {
  if (command.arguments.empty() || command.arguments.front().empty())
    return fail(Code::kInvalid, "command: no program");
  if (command.arguments.size() > agent_abi::kMaxStrings)
    return fail(Code::kInvalid,
                "command: more than " + std::to_string(agent_abi::kMaxStrings) + " arguments");
  if (command.variables.size() > agent_abi::kMaxStrings)
    return fail(Code::kInvalid,
                "command: more than " + std::to_string(agent_abi::kMaxStrings) + " variables");
  for (const std::string& variable : command.variables)
    if (variable.find('=', 1) == variable.npos || variable.front() == '=')
      return fail(Code::kInvalid, "command: no NAME=VALUE: " + variable);
  return {};
}

}  // namespace

Result<Head> decode_agent_head(std::span<const std::byte, sizeof(Head)> bytes) {
  const Head head = load<Head>(bytes);
  if (!from_guest(static_cast<Type>(head.type)) || !agent_abi::length_fits(head.type, head.length))
    return fail(Code::kCorrupt, "agent: no frame has type " + std::to_string(head.type) + " and " +
                                    std::to_string(head.length) + " bytes");
  return head;
}

Result<AgentFrame> decode_agent_frame(const Head& head, std::span<const std::byte> payload) {
  switch (static_cast<Type>(head.type)) {
    case Type::kReady:
      return decode_ready(payload);
    case Type::kStarted: {
      const auto started = load<agent_abi::Started>(payload);
      if (started.pid == 0 || started.pid > INT32_MAX) return corrupt("STARTED: no pid");
      return started;
    }
    case Type::kStdout:
    case Type::kStderr:
      return AgentOutput{static_cast<Type>(head.type) == Type::kStderr, payload};
    case Type::kCredit: {
      const auto credit = load<agent_abi::Credit>(payload);
      if (credit.bytes == 0 || credit.bytes > agent_abi::kStdinWindow)
        return corrupt("CREDIT: no part of the window");
      return credit;
    }
    case Type::kExited:
      return decode_exit(payload);
    case Type::kFrozen:
      return load<agent_abi::Frozen>(payload);
    case Type::kResumed:
      return load<agent_abi::Resumed>(payload);
    case Type::kFailed:
      return decode_failure(payload);
    default:
      return corrupt("a frame of the host's");
  }
}

Result<std::vector<std::byte>> encode_exec(const AgentCommand& command) {
  VOLT_TRY(check(command));
  agent_abi::ExecHead head = {};
  head.version = agent_abi::kVersion;
  head.flags = command.terminal ? agent_abi::kExecTty : 0;
  head.uid = command.uid;
  head.gid = command.gid;
  head.rows = command.terminal ? command.terminal->rows : 0;
  head.columns = command.terminal ? command.terminal->columns : 0;
  head.argument_count = static_cast<std::uint32_t>(command.arguments.size());
  head.variable_count = static_cast<std::uint32_t>(command.variables.size());
  std::vector<std::byte> payload;
  append(payload, bytes_of(head));
  VOLT_TRY(append_string(payload, command.directory));
  for (const std::string& text : command.arguments) VOLT_TRY(append_string(payload, text));
  for (const std::string& text : command.variables) VOLT_TRY(append_string(payload, text));
  if (payload.size() > agent_abi::kMaxPayload)
    return fail(Code::kInvalid, "command: arguments and variables are over 64 KiB");
  return encode_agent_frame(Type::kExec, payload);
}

Result<std::vector<std::byte>> encode_resume(const AgentIdentity& identity,
                                             std::uint32_t timeout_ms) {
  if (identity.hostname.size() > agent_abi::kMaxHostname || identity.hostname.contains('\0'))
    return fail(Code::kInvalid, "hostname: at most 64 bytes: " + identity.hostname);
  if (identity.wall_ns > INT64_MAX / 2) return fail(Code::kInvalid, "identity: no time");
  agent_abi::Resume head = {};
  head.version = agent_abi::kVersion;
  head.timeout_ms = timeout_ms;
  std::ranges::copy(identity.generation, head.generation);
  std::ranges::copy(identity.entropy, head.entropy);
  head.wall_ns = identity.wall_ns;
  head.tsc = identity.tsc;
  head.tsc_khz = identity.tsc_khz;
  std::vector<std::byte> payload;
  append(payload, bytes_of(head));
  append(payload, std::as_bytes(std::span(identity.hostname)));
  payload.push_back({});
  return encode_agent_frame(Type::kResume, payload);
}

std::vector<std::byte> encode_agent_frame(Type type, std::span<const std::byte> payload) {
  const Head head = {static_cast<std::uint32_t>(payload.size()), static_cast<std::uint32_t>(type)};
  std::vector<std::byte> bytes(sizeof head + payload.size());
  std::memcpy(bytes.data(), &head, sizeof head);
  std::ranges::copy(payload, bytes.begin() + sizeof head);
  return bytes;
}

}  // namespace volt::vmm
