#include "tools/guest/init/frames.h"

#include <errno.h>
#include <string.h>

namespace volt::init {

namespace {

using agent_abi::Type;

constexpr Checked kFine = {};

Checked wrong(const char* why) {
  return {EPROTO, why};
}

// `payload` is long enough: check_head() has seen to it.
template <typename T>
Checked take_versioned(Bytes payload, T& into) {
  memcpy(&into, payload.data(), sizeof into);
  if (into.version != agent_abi::kVersion)
    return {EPROTONOSUPPORT, "the request is of another version of the protocol"};
  return kFine;
}

// The length of the string at the front without its NUL, or -1 if it does not end.
std::ptrdiff_t string_length(Bytes text) {
  if (text.empty()) return -1;
  const void* end = memchr(text.data(), 0, text.size());
  return end == nullptr ? -1 : static_cast<const std::byte*>(end) - text.data();
}

bool is_variable(const char* text) {
  const char* equals = strchr(text, '=');
  return equals != nullptr && equals != text;
}

}  // namespace

Checked check_head(const agent_abi::Head& head, Expected expected) {
  if (head.length > agent_abi::kMaxPayload) return wrong("a frame is too long");
  const Type type = static_cast<Type>(head.type);
  const bool input = type == Type::kStdin || type == Type::kStdinEof || type == Type::kSignal ||
                     type == Type::kResize;
  const bool request = type == Type::kExec || type == Type::kFreeze || type == Type::kResume ||
                       type == Type::kShutdown;
  if (!(expected == Expected::kRequest ? request : input))
    return wrong("a frame of a type that has no place here");
  if (!agent_abi::length_fits(head.type, head.length))
    return wrong("a frame has no length of its type");
  return kFine;
}

Checked decode(Bytes payload, Exec& into) {
  if (const Checked head = take_versioned(payload, into.head); !head) return head;
  const agent_abi::ExecHead& head = into.head;
  if ((head.flags & ~agent_abi::kExecTty) != 0) return wrong("EXEC: unknown flags");
  if (head.argument_count == 0 || head.argument_count > agent_abi::kMaxStrings)
    return wrong("EXEC: too few or too many arguments");
  if (head.variable_count > agent_abi::kMaxStrings) return wrong("EXEC: too many variables");

  Bytes rest = payload.subspan(sizeof head);
  const std::uint32_t count = 1 + head.argument_count + head.variable_count;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::ptrdiff_t length = string_length(rest);
    if (length < 0) return wrong("EXEC: fewer strings than it says");
    const char* text = reinterpret_cast<const char*>(rest.data());
    if (i > head.argument_count && !is_variable(text))
      return wrong("EXEC: a variable without name or value");
    if (i == 1 && length == 0) return wrong("EXEC: no program");
    rest = rest.subspan(static_cast<std::size_t>(length) + 1);
    if (i > 0) continue;
    into.directory = length > 0 ? text : "/";
    into.strings = rest;
  }
  if (!rest.empty()) return wrong("EXEC: more strings than it says");
  return kFine;
}

Checked decode(Bytes payload, ResumeRequest& into) {
  if (const Checked head = take_versioned(payload, into.head); !head) return head;
  const Bytes name = payload.subspan(sizeof into.head);
  if (string_length(name) != static_cast<std::ptrdiff_t>(name.size()) - 1)
    return wrong("RESUME: the hostname does not end where the frame does");
  // Far from where sums overflow.
  constexpr std::uint64_t kLatestNs = INT64_MAX / 2, kMaxTscKhz = 1'000'000'000;
  if (into.head.wall_ns > kLatestNs || into.head.tsc_khz > kMaxTscKhz)
    return wrong("RESUME: no time");
  into.hostname = reinterpret_cast<const char*>(name.data());
  return kFine;
}

Checked decode(Bytes payload, agent_abi::Freeze& into) {
  if (const Checked head = take_versioned(payload, into); !head) return head;
  return into.reserved == 0 ? kFine : wrong("FREEZE: reserved field");
}

Checked decode(Bytes payload, agent_abi::Shutdown& into) {
  if (const Checked head = take_versioned(payload, into); !head) return head;
  return (into.flags & ~agent_abi::kShutdownReboot) == 0 ? kFine : wrong("SHUTDOWN: unknown flags");
}

Checked decode(Bytes payload, agent_abi::Signal& into) {
  memcpy(&into, payload.data(), sizeof into);
  return into.number >= 1 && into.number <= agent_abi::kMaxSignal ? kFine
                                                                  : wrong("SIGNAL: no such signal");
}

}  // namespace volt::init
