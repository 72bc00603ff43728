#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "vmm/agent_client.h"

namespace volt::vmm {

namespace {

constexpr std::size_t kHeadBytes = sizeof(agent_abi::Head);
constexpr std::size_t kInBytes = kHeadBytes + agent_abi::kMaxPayload;
// Input up to the window, and far more signals than anybody sends while a guest is deaf.
constexpr std::size_t kMaxWaiting = agent_abi::kStdinWindow + 256 * 1024;

bool would_block(int error) {
  return error == EAGAIN || error == EINTR;
}

}  // namespace

Result<AgentStream> AgentStream::over(AgentConnection connection) {
  const int fd = connection.stream.get();
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return sys_error("fcntl", "agent's connection");
  return AgentStream(std::move(connection));
}

Result<> AgentStream::send(std::span<const std::byte> frame) {
  if (deaf_) return {};
  if (out_.size() + frame.size() > kMaxWaiting)
    return fail(Code::kBusy, "agent: it takes nothing, and too much waits for it");
  out_.insert(out_.end(), frame.begin(), frame.end());
  return flush();
}

Result<> AgentStream::flush() {
  while (!out_.empty()) {
    const ssize_t sent = ::send(fd(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && would_block(errno)) return {};
    if (sent < 0 && errno != EPIPE && errno != ECONNRESET) return sys_error("send", "agent");
    if (sent < 0) {
      // It is done; why, is among what it said before.
      deaf_ = true;
      out_.clear();
      return {};
    }
    out_.erase(out_.begin(), out_.begin() + sent);
  }
  return {};
}

Result<> AgentStream::fill() {
  if (ended_ || in_.size() >= kInBytes) return {};
  const std::size_t before = in_.size();
  in_.resize(kInBytes);
  const ssize_t got = ::recv(fd(), in_.data() + before, in_.size() - before, MSG_DONTWAIT);
  const int error = errno;
  in_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  if (got > 0 || (got < 0 && would_block(error))) return {};
  if (got < 0 && error != ECONNRESET) {
    errno = error;
    return sys_error("recv", "agent");
  }
  ended_ = true;
  return {};
}

Result<std::optional<AgentFrame>> AgentStream::next_frame() {
  if (in_.size() < kHeadBytes) return std::nullopt;
  const std::span<const std::byte> bytes = in_;
  const agent_abi::Head head = VOLT_TRY(decode_agent_head(bytes.first<kHeadBytes>()));
  if (bytes.size() < kHeadBytes + head.length) return std::nullopt;
  AgentFrame frame = VOLT_TRY(decode_agent_frame(head, bytes.subspan(kHeadBytes, head.length)));
  taken_ = kHeadBytes + head.length;
  return frame;
}

Result<std::optional<AgentFrame>> AgentStream::try_receive() {
  in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(std::exchange(taken_, 0)));
  VOLT_TRY(flush());
  std::optional<AgentFrame> frame = VOLT_TRY(next_frame());
  if (frame) return frame;
  VOLT_TRY(fill());
  frame = VOLT_TRY(next_frame());
  if (!frame && ended_) return fail(Code::kGuestCrashed, "agent: it hung up before it was done");
  return frame;
}

short AgentStream::poll_events() const {
  return static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT));
}

Result<> AgentStream::wait(Deadline deadline) const {
  for (;;) {
    VOLT_TRY(check_stop());
    if (deadline.passed()) return fail(Code::kDeadline, "agent: no answer in time");
    pollfd fds[] = {{fd(), poll_events(), 0}, {connection_.machine_ended, POLLIN, 0}};
    const int ready = ::poll(fds, std::size(fds), deadline.poll_ms());
    if (ready < 0 && errno != EINTR) return sys_error("poll", "agent");
    if (ready > 0 && fds[0].revents != 0) return {};
    if (ready > 0) return fail(Code::kGuestCrashed, "agent: its machine has ended");
  }
}

Result<AgentFrame> AgentStream::receive(Deadline deadline) {
  for (;;) {
    std::optional<AgentFrame> frame = VOLT_TRY(try_receive());
    if (frame) return *std::move(frame);
    VOLT_TRY(wait(deadline));
  }
}

}  // namespace volt::vmm
