// Frames of Linux guests' agents on anything, read as either side reads a stream: an error that has
// a name, or values that keep to the contract and views that lie in the frame.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "tools/guest/init/frames.h"
#include "vmm/agent_frames.h"

namespace volt {
namespace {

using agent_abi::Head;
using agent_abi::Type;
using Bytes = std::span<const std::byte>;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

bool within(const void* part, std::size_t bytes, Bytes whole) {
  const auto* const first = static_cast<const std::byte*>(part);
  return first >= whole.data() && bytes <= whole.size() &&
         first <= whole.data() + whole.size() - bytes;
}

// ---- What the host makes of it.

void check_frame(const vmm::AgentFrame& frame, Bytes payload) {
  if (const auto* output = std::get_if<vmm::AgentOutput>(&frame))
    expect(within(output->bytes.data(), output->bytes.size(), payload), "output is in the frame");
  if (const auto* exit = std::get_if<vmm::AgentExit>(&frame))
    expect(exit->value >= 0 && exit->shell_code() <= 255, "a shell could say it");
  if (const auto* failure = std::get_if<vmm::AgentFailure>(&frame))
    expect(std::ranges::all_of(failure->text, [](char c) { return c >= ' ' && c <= '~'; }),
           "text is printable");
}

void fuzz_host(Bytes bytes) {
  while (bytes.size() >= sizeof(Head)) {
    const auto head = vmm::decode_agent_head(bytes.first<sizeof(Head)>());
    if (!head) return expect(head.error().context.starts_with("agent: "), "the error has a name");
    expect(head->length <= agent_abi::kMaxPayload, "the limit holds");
    bytes = bytes.subspan(sizeof(Head));
    if (bytes.size() < head->length) return;
    const auto frame = vmm::decode_agent_frame(*head, bytes.first(head->length));
    if (!frame) return expect(frame.error().context.starts_with("agent: "), "the error has a name");
    check_frame(*frame, bytes.first(head->length));
    bytes = bytes.subspan(head->length);
  }
}

// ---- What the guest makes of it.

void check_exec(Bytes payload) {
  init::Exec exec;
  const init::Checked checked = init::decode(payload, exec);
  if (!checked) return expect(checked.error != 0, "a refusal has an errno");
  expect(within(exec.strings.data(), exec.strings.size(), payload), "strings are in the frame");
  const std::string_view strings(reinterpret_cast<const char*>(exec.strings.data()),
                                 exec.strings.size());
  const auto count = static_cast<std::uint32_t>(std::ranges::count(strings, '\0'));
  expect(count == exec.head.argument_count + exec.head.variable_count && strings.ends_with('\0'),
         "there are as many strings as it says");
}

void check_request(const Head& head, Bytes payload) {
  agent_abi::Freeze freeze;
  agent_abi::Shutdown shutdown;
  agent_abi::Signal signal;
  init::ResumeRequest resume;
  switch (static_cast<Type>(head.type)) {
    case Type::kExec:
      return check_exec(payload);
    case Type::kResume:
      if (!init::decode(payload, resume)) return;
      expect(std::strlen(resume.hostname) <= agent_abi::kMaxHostname, "a name has an end");
      return expect(resume.head.wall_ns <= INT64_MAX / 2, "a time that can be reckoned with");
    case Type::kFreeze:
      return static_cast<void>(init::decode(payload, freeze));
    case Type::kShutdown:
      return static_cast<void>(init::decode(payload, shutdown));
    case Type::kSignal:
      if (init::decode(payload, signal)) expect(signal.number <= 64, "there is such a signal");
      return;
    default:
      return;
  }
}

void fuzz_guest(Bytes bytes, init::Expected expected) {
  while (bytes.size() >= sizeof(Head)) {
    Head head;
    std::memcpy(&head, bytes.data(), sizeof head);
    if (!init::check_head(head, expected)) return;
    bytes = bytes.subspan(sizeof head);
    if (bytes.size() < head.length) return;
    check_request(head, bytes.first(head.length));
    bytes = bytes.subspan(head.length);
    expected = init::Expected::kCommandInput;
  }
}

}  // namespace
}  // namespace volt

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  volt::fuzz_host(input);
  volt::fuzz_guest(input, volt::init::Expected::kRequest);
  volt::fuzz_guest(input, volt::init::Expected::kCommandInput);
  return 0;
}
