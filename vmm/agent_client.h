// The host's side of a session with a guest's agent, over a stream that is connected to it already.
// What vmm/agent_abi.h says of order and flow holds; a guest that breaks it, or sends nonsense, is
// an error of the session and nothing worse. An agent that says FAILED is kSystem with the guest's
// errno and its words; one that hangs up early is kGuestCrashed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "vmm/agent_abi.h"
#include "vmm/agent_frames.h"
#include "vmm/interrupt.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::vmm {

// A stream to the agent, and how to learn that its machine has ended: a descriptor that is readable
// from then on (not owned; none: -1). A machine that is gone closes no streams.
struct AgentConnection {
  AgentConnection(Fd to_agent, int ended = -1)  // a stream alone is one, too
      : stream(std::move(to_agent)), machine_ended(ended) {}
  Fd stream;
  int machine_ended;
};

// Frames on a stream. Never blocks but in receive().
class AgentStream {
 public:
  static Result<AgentStream> over(AgentConnection connection);

  // Sent as far as the guest takes it; the rest waits here. kBusy if too much does.
  Result<> send(std::span<const std::byte> frame);
  // The next frame; what it points to is good until the next call. kDeadline, kInterrupted: it can
  // be called again.
  Result<AgentFrame> receive(Deadline deadline);
  // The same without waiting: nothing if no whole frame has come.
  Result<std::optional<AgentFrame>> try_receive();

  int fd() const { return connection_.stream.get(); }
  short poll_events() const;  // what to poll(2) fd() for before try_receive()
  // Waits for one of them.
  Result<> wait(Deadline deadline) const;

 private:
  explicit AgentStream(AgentConnection connection) : connection_(std::move(connection)) {}
  Result<> flush();
  Result<> fill();
  Result<std::optional<AgentFrame>> next_frame();

  AgentConnection connection_;
  std::vector<std::byte> in_, out_;
  std::size_t taken_ = 0;  // bytes at the front of in_ that were returned as a frame
  bool deaf_ = false;      // the guest takes nothing more, and may still have something to say
  bool ended_ = false;     // all it had to say has come
};

// A command in the guest. Destroying it before its end kills the command.
class AgentExec {
 public:
  struct Started {
    std::uint32_t pid;
  };
  struct Room {};  // write_stdin() takes something again
  using Event = std::variant<Started, AgentOutput, Room, AgentExit>;

  static Result<AgentExec> start(AgentConnection connection, const AgentCommand& command);

  // How many bytes of it are on their way: what the guest has room for, so none at all at times.
  Result<std::size_t> write_stdin(std::span<const std::byte> bytes);
  std::size_t stdin_room() const { return window_; }
  Result<> close_stdin();
  Result<> signal(int number);
  Result<> resize(agent_abi::Resize size);

  // What happens next; AgentExit is the last. Bytes of output are good until the next call.
  // kDeadline, kInterrupted: it can be called again.
  Result<Event> next(Deadline deadline);
  // The same without waiting, for a loop that also looks at other descriptors: poll(2)
  // stream().fd() for stream().poll_events(), then ask until there is nothing.
  Result<std::optional<Event>> try_next();
  const AgentStream& stream() const { return stream_; }

 private:
  explicit AgentExec(AgentStream stream) : stream_(std::move(stream)) {}
  Result<Event> event_of(AgentFrame&& frame);

  AgentStream stream_;
  std::size_t window_ = agent_abi::kStdinWindow;
  bool started_ = false, ended_ = false, stdin_closed_ = false;
};

// Each is one session. The guest's own limits end a little before the deadline, so that it can say
// what was late; without a deadline they are a minute.
Result<agent_abi::Ready> receive_ready(AgentConnection connection, Deadline deadline);
// kGuestCrashed: it could not, or one of its hooks failed; it runs on.
Result<agent_abi::Frozen> freeze_guest(AgentConnection connection, Deadline deadline);
// kGuestCrashed: it failed at its part, or one of its hooks did. kHostUnable: its clock is wrong.
Result<agent_abi::Resumed> resume_guest(AgentConnection connection, const AgentIdentity& identity,
                                        Deadline deadline);
// Returns once the guest has begun; that it ends is for its machine to say.
Result<> shut_down_guest(AgentConnection connection, agent_abi::Shutdown how, Deadline deadline);

}  // namespace volt::vmm
