// A command of the host's from its start to its end: the process, its streams, what waits for it.
#pragma once

#include <optional>
#include <span>

#include "tools/guest/init/byte_queue.h"
#include "tools/guest/init/frames.h"
#include "tools/guest/init/poll_set.h"
#include "tools/guest/init/process.h"
#include "vmm/os/fd.h"

namespace volt::init {

// Takes frames for the host, as far as there is room.
class Outgoing {
 public:
  // Room that is kept for all but output.
  static constexpr std::size_t kReserve = 4096;

  Outgoing() = default;
  explicit Outgoing(std::span<std::byte> memory) : queue_(memory) {}

  // The frame fits: callers ask room_for_output() first, or send one of the few others.
  void put(agent_abi::Type type, Bytes payload, Bytes more = {});
  template <typename T>
  void put(agent_abi::Type type, const T& payload, Bytes more = {}) {
    put(type, std::as_bytes(std::span(&payload, 1)), more);
  }
  std::size_t room_for_output() const;
  // One read(2) of `fd` becomes a frame; what read returned, and errno.
  ssize_t put_read(agent_abi::Type type, int fd, std::size_t most);

  bool empty() const { return queue_.empty(); }
  // false once the connection is lost.
  bool flush(int connection);

 private:
  ByteQueue queue_;
};

class Command {
 public:
  // Memory for its input; kStdinWindow bytes and a few more.
  static constexpr std::size_t kInputBytes = agent_abi::kStdinWindow + 16;

  explicit Command(std::span<std::byte> memory) : input_(memory) {}
  ~Command();  // kills it and its process group unless it has ended
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // errno, or 0: then it is on its way.
  int start(const Exec& exec);

  bool take_input(Bytes bytes);  // false: more than the window
  void close_input();
  void signal(int number) const;
  void resize(agent_abi::Resize size) const;

  void watch(PollSet& set, const Outgoing& out);
  // Moves what can be moved. True once EXITED was put: it is finished.
  bool serve(const PollSet& set, Outgoing& out);
  bool is(pid_t pid) const { return pid_ == pid && !status_; }
  void ended(int status);

 private:
  struct Output {
    Fd fd;
    agent_abi::Type type;
    std::size_t left = SIZE_MAX;  // to forward once the command has ended
    PollSet::Ticket ticket = PollSet::kNone;
  };

  int start_on_pipes(const Exec& exec);
  int start_on_terminal(const Exec& exec);
  void adopt(Child child);
  void read_report(Outgoing& out);
  void feed();
  void took(std::size_t bytes);
  void forward(Output& output, Outgoing& out);

  ByteQueue input_;
  bool input_ends_ = false;  // nothing comes behind what input_ has
  bool end_queued_ = false;  // the last byte of input_ is a terminal's end-of-file
  bool tty_ = false;
  std::uint32_t owed_ = 0;  // bytes taken that no CREDIT has given back
  pid_t pid_ = -1;
  std::optional<int> status_;  // of waitpid(2)
  std::optional<StartError> start_error_;
  Fd report_, in_;
  Output outputs_[2] = {{{}, agent_abi::Type::kStdout}, {{}, agent_abi::Type::kStderr}};
  PollSet::Ticket in_ticket_ = PollSet::kNone, report_ticket_ = PollSet::kNone;
  char name_[64] = {};
};

}  // namespace volt::init
