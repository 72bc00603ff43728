#include "tools/guest/init/session.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string_view>

namespace volt::init {

namespace {

using agent_abi::Head;
using agent_abi::Type;

constexpr std::size_t kInBytes = sizeof(Head) + agent_abi::kMaxPayload;
constexpr std::size_t kOutBytes = 128 * 1024;
constexpr std::size_t kMemoryBytes = kInBytes + kOutBytes + Command::kInputBytes;

}  // namespace

bool Session::open(Fd connection) {
  void* memory =
      mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = {static_cast<std::byte*>(memory), kMemoryBytes};
  connection_ = std::move(connection);
  in_ = ByteQueue(memory_.first(kInBytes));
  out_ = Outgoing(memory_.subspan(kInBytes, kOutBytes));
  request_bytes_ = 0;
  ending_ = false;
  return true;
}

void Session::turn_away(const Fd& connection) {
  constexpr std::string_view kWhy = "there are too many sessions";
  std::byte memory[256];
  Outgoing out(memory);
  const agent_abi::Failed failed = {EAGAIN, static_cast<std::uint32_t>(agent_abi::Stage::kRequest)};
  out.put(Type::kFailed, failed, std::as_bytes(std::span(kWhy)));
  out.flush(connection.get());
}

void Session::close() {
  command_.reset();
  connection_ = Fd();
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
  memory_ = {};
}

void Session::watch(PollSet& set) {
  const short out = out_.empty() ? short{0} : short{POLLOUT};
  ticket_ = set.add(connection_.get(), static_cast<short>(POLLIN | out));
  if (command_ && !ending_) command_->watch(set, out_);
}

// Reads what has come; false once the host is gone.
bool Session::receive() {
  for (;;) {
    const std::span<std::byte> space = in_.back();
    if (space.empty()) return true;
    const ssize_t got = recv(connection_.get(), space.data(), space.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    if (ending_) continue;  // nothing that comes now matters
    in_.grow(static_cast<std::size_t>(got));
    return true;
  }
}

std::optional<Head> Session::complete_frame() const {
  Head head;
  const Bytes bytes = in_.front();
  if (bytes.size() < sizeof head) return std::nullopt;
  memcpy(&head, bytes.data(), sizeof head);
  return head;
}

bool Session::host_hung_up() const {
  char byte;
  const ssize_t got = recv(connection_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

Bytes Session::payload() const {
  return in_.front().subspan(sizeof(Head), request_bytes_ - sizeof(Head));
}

void Session::refuse(const Failure& failure, agent_abi::Stage stage) {
  const agent_abi::Failed failed = {static_cast<std::uint32_t>(failure.error),
                                    static_cast<std::uint32_t>(stage)};
  out_.put(Type::kFailed, failed, std::as_bytes(std::span(failure.text, strlen(failure.text))));
  ending_ = true;
}

void Session::refuse(const Checked& wrong) {
  Failure failure;
  failure.set(wrong.error, "%s", wrong.why);
  refuse(failure, agent_abi::Stage::kRequest);
  command_.reset();
}

void Session::take_input(const Head& head, Bytes payload) {
  switch (static_cast<Type>(head.type)) {
    case Type::kStdin:
      if (!command_->take_input(payload))
        refuse(Checked{EPROTO, "STDIN: more than the window, or after its end"});
      return;
    case Type::kStdinEof:
      return command_->close_input();
    case Type::kResize: {
      agent_abi::Resize size;
      memcpy(&size, payload.data(), sizeof size);
      return command_->resize(size);
    }
    default: {  // SIGNAL: check_head() lets nothing else through
      agent_abi::Signal signal;
      if (const Checked checked = decode(payload, signal); !checked) return refuse(checked);
      return command_->signal(static_cast<int>(signal.number));
    }
  }
}

Session::Request Session::take_frames() {
  in_.drop(request_bytes_);
  request_bytes_ = 0;
  while (!ending_) {
    const std::optional<Head> head = complete_frame();
    if (!head) break;
    const Checked checked =
        check_head(*head, command_ ? Expected::kCommandInput : Expected::kRequest);
    if (!checked) {
      refuse(checked);
      break;
    }
    if (in_.size() < sizeof(Head) + head->length) break;
    request_bytes_ = static_cast<std::uint32_t>(sizeof(Head)) + head->length;
    if (!command_) {
      if (head->type == static_cast<std::uint32_t>(Type::kExec)) return Request::kExec;
      if (head->type == static_cast<std::uint32_t>(Type::kFreeze)) return Request::kFreeze;
      if (head->type == static_cast<std::uint32_t>(Type::kResume)) return Request::kResume;
      return Request::kShutdown;
    }
    take_input(*head, payload());
    in_.drop(request_bytes_);
    request_bytes_ = 0;
  }
  return Request::kNone;
}

Session::Request Session::serve(const PollSet& set) {
  if (set.readable(ticket_) && !receive()) {
    close();
    return Request::kNone;
  }
  const Request request = ending_ ? Request::kNone : take_frames();
  if (request == Request::kNone && command_ && !ending_ && command_->serve(set, out_))
    ending_ = true;
  if (request == Request::kNone) flush();
  return request;
}

void Session::flush() {
  if (!out_.flush(connection_.get()) || (ending_ && out_.empty())) close();
}

void Session::start_command(const Exec& exec) {
  command_.emplace(memory_.last(Command::kInputBytes));
  const int error = command_->start(exec);
  if (error == 0) return;
  Failure failure;
  failure.set(error, "EXEC: %s", reason(error));
  refuse(failure, agent_abi::Stage::kRequest);
  command_.reset();
}

bool Session::child_ended(pid_t pid, int status) {
  if (!command_ || !command_->is(pid)) return false;
  command_->ended(status);
  return true;
}

}  // namespace volt::init
