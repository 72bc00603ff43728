// One connection of the host: its first frame says what it is for.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>

#include "tools/guest/init/command.h"
#include "tools/guest/init/frames.h"
#include "tools/guest/init/log.h"
#include "tools/guest/init/poll_set.h"
#include "vmm/agent_abi.h"
#include "vmm/os/fd.h"

namespace volt::init {

class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { close(); }

  bool is_open() const { return connection_.valid(); }
  bool runs_command() const { return command_.has_value(); }
  // false without memory for it.
  bool open(Fd connection);
  // For a connection that gets no session.
  static void turn_away(const Fd& connection);
  void close();

  void watch(PollSet& set);
  // Moves what can be moved, and says for what the agent itself is asked.
  enum class Request { kNone, kExec, kFreeze, kResume, kShutdown };
  Request serve(const PollSet& set);
  // Of the request; valid until the next call of serve().
  Bytes payload() const;

  void start_command(const Exec& exec);
  template <typename T>
  void answer(agent_abi::Type type, const T& payload) {
    out_.put(type, payload);
    ending_ = true;
  }
  void refuse(const Failure& failure, agent_abi::Stage stage);
  // What is to be sent goes as far as it can without waiting.
  void flush();

  bool child_ended(pid_t pid, int status);
  bool host_hung_up() const;

 private:
  bool receive();
  std::optional<agent_abi::Head> complete_frame() const;
  Request take_frames();
  void take_input(const agent_abi::Head& head, Bytes payload);
  void refuse(const Checked& wrong);

  Fd connection_;
  std::span<std::byte> memory_;
  ByteQueue in_;
  Outgoing out_;
  std::optional<Command> command_;
  std::uint32_t request_bytes_ = 0;  // of the frame that payload() is of, with its head
  bool ending_ = false;              // the last frame was put
  PollSet::Ticket ticket_ = PollSet::kNone;
};

}  // namespace volt::init
