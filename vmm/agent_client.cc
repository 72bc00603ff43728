#include "vmm/agent_client.h"

#include <algorithm>
#include <string>

#include "vmm/identity.h"

namespace volt::vmm {

namespace {

using agent_abi::Type;

constexpr std::uint32_t kDefaultLimitMs = 60'000;

template <typename T>
std::vector<std::byte> frame_of(Type type, const T& payload) {
  return encode_agent_frame(type, std::as_bytes(std::span(&payload, 1)));
}

std::unexpected<Error> error_of(const AgentFailure& failure) {
  using agent_abi::Stage;
  const Code code = failure.stage == Stage::kRequest ? Code::kSystem : Code::kGuestCrashed;
  return std::unexpected(Error{code, failure.error, "agent: " + failure.text});
}

std::unexpected<Error> out_of_order() {
  return fail(Code::kCorrupt, "agent: an answer to something else");
}

// Of a guest that says when its processes were thawed and when it answered, by the host's clock
// when it was asked and when the answer was there.
Result<> check_clock(const agent_abi::Resumed& resumed, std::uint64_t asked_ns,
                     std::uint64_t heard_ns) {
  constexpr auto kTolerance = static_cast<std::uint64_t>(agent_abi::kClockToleranceNs);
  std::uint64_t off_ns = 0;
  const char* where = "";
  if (resumed.thawed_ns < asked_ns) {
    off_ns = asked_ns - resumed.thawed_ns;
    where = " ms behind the host's";
  } else if (resumed.answered_ns > heard_ns) {
    off_ns = resumed.answered_ns - heard_ns;
    where = " ms ahead of the host's";
  }
  if (off_ns <= kTolerance) return {};
  return fail(Code::kHostUnable, "the guest's clock is " + std::to_string(off_ns / 1'000'000) +
                                     where +
                                     ", though it was just set: does the time stamp counter here "
                                     "count as fast as KVM says?");
}

// Nine tenths of what is left.
std::uint32_t guest_limit_ms(Deadline deadline) {
  const std::int64_t left_ms = deadline.left_ms();
  if (left_ms < 0) return kDefaultLimitMs;
  return static_cast<std::uint32_t>(std::min<std::int64_t>(left_ms, UINT32_MAX) * 9 / 10);
}

// A session of one request and one answer.
template <typename Answer>
Result<Answer> ask(AgentConnection connection, std::span<const std::byte> request,
                   Deadline deadline) {
  AgentStream stream = VOLT_TRY(AgentStream::over(std::move(connection)));
  VOLT_TRY(stream.send(request));
  const AgentFrame frame = VOLT_TRY(stream.receive(deadline));
  if (const auto* failure = std::get_if<AgentFailure>(&frame)) return error_of(*failure);
  if (const auto* answer = std::get_if<Answer>(&frame)) return *answer;
  return out_of_order();
}

}  // namespace

Result<AgentExec> AgentExec::start(AgentConnection connection, const AgentCommand& command) {
  const std::vector<std::byte> frame = VOLT_TRY(encode_exec(command));
  AgentStream stream = VOLT_TRY(AgentStream::over(std::move(connection)));
  VOLT_TRY(stream.send(frame));
  return AgentExec(std::move(stream));
}

Result<std::size_t> AgentExec::write_stdin(std::span<const std::byte> bytes) {
  if (stdin_closed_) return fail(Code::kInvalid, "agent: the command's input was closed");
  std::size_t taken = 0;
  while (taken < bytes.size() && window_ > 0) {
    const std::size_t piece =
        std::min({bytes.size() - taken, window_, std::size_t{agent_abi::kMaxPayload}});
    VOLT_TRY(stream_.send(encode_agent_frame(Type::kStdin, bytes.subspan(taken, piece))));
    window_ -= piece;
    taken += piece;
  }
  return taken;
}

Result<> AgentExec::close_stdin() {
  if (std::exchange(stdin_closed_, true)) return {};
  return stream_.send(encode_agent_frame(Type::kStdinEof, {}));
}

Result<> AgentExec::signal(int number) {
  if (number < 1 || number > static_cast<int>(agent_abi::kMaxSignal))
    return fail(Code::kInvalid, "no signal: " + std::to_string(number));
  const agent_abi::Signal signal = {static_cast<std::uint32_t>(number)};
  return stream_.send(frame_of(Type::kSignal, signal));
}

Result<> AgentExec::resize(agent_abi::Resize size) {
  return stream_.send(frame_of(Type::kResize, size));
}

Result<AgentExec::Event> AgentExec::event_of(AgentFrame&& frame) {
  if (const auto* failure = std::get_if<AgentFailure>(&frame)) return error_of(*failure);
  if (const auto* output = std::get_if<AgentOutput>(&frame)) return *output;
  if (const auto* exit = std::get_if<AgentExit>(&frame)) {
    ended_ = true;
    return *exit;
  }
  if (const auto* started = std::get_if<agent_abi::Started>(&frame)) {
    if (std::exchange(started_, true)) return fail(Code::kCorrupt, "agent: it started twice");
    return Started{started->pid};
  }
  if (const auto* credit = std::get_if<agent_abi::Credit>(&frame)) {
    if (credit->bytes > agent_abi::kStdinWindow - window_)
      return fail(Code::kCorrupt, "agent: it took more input than there was");
    window_ += credit->bytes;
    return Room{};
  }
  return out_of_order();
}

Result<std::optional<AgentExec::Event>> AgentExec::try_next() {
  if (ended_) return fail(Code::kInvalid, "agent: the command has ended");
  std::optional<AgentFrame> frame = VOLT_TRY(stream_.try_receive());
  if (!frame) return std::nullopt;
  Event event = VOLT_TRY(event_of(*std::move(frame)));
  return event;
}

Result<AgentExec::Event> AgentExec::next(Deadline deadline) {
  for (;;) {
    std::optional<Event> event = VOLT_TRY(try_next());
    if (event) return *std::move(event);
    VOLT_TRY(stream_.wait(deadline));
  }
}

Result<agent_abi::Ready> receive_ready(AgentConnection connection, Deadline deadline) {
  return ask<agent_abi::Ready>(std::move(connection), {}, deadline);
}

Result<agent_abi::Frozen> freeze_guest(AgentConnection connection, Deadline deadline) {
  const agent_abi::Freeze freeze = {agent_abi::kVersion, 0, guest_limit_ms(deadline)};
  return ask<agent_abi::Frozen>(std::move(connection), frame_of(Type::kFreeze, freeze), deadline);
}

Result<agent_abi::Resumed> resume_guest(AgentConnection connection, const AgentIdentity& identity,
                                        Deadline deadline) {
  const std::vector<std::byte> request =
      VOLT_TRY(encode_resume(identity, guest_limit_ms(deadline)));
  const auto resumed = VOLT_TRY(ask<agent_abi::Resumed>(std::move(connection), request, deadline));
  VOLT_TRY(check_clock(resumed, identity.wall_ns, wall_clock_ns()));
  return resumed;
}

Result<> shut_down_guest(AgentConnection connection, agent_abi::Shutdown how, Deadline deadline) {
  how.version = agent_abi::kVersion;
  AgentStream stream = VOLT_TRY(AgentStream::over(std::move(connection)));
  VOLT_TRY(stream.send(frame_of(Type::kShutdown, how)));
  const Result<AgentFrame> answer = stream.receive(deadline);
  // It hangs up: that is how it says that it has begun.
  if (!answer && answer.error().code == Code::kGuestCrashed) return {};
  if (!answer) return std::unexpected(answer.error());
  if (const auto* failure = std::get_if<AgentFailure>(&*answer)) return error_of(*failure);
  return out_of_order();
}

}  // namespace volt::vmm
