#include "tools/guest/init/command.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/log.h"

namespace volt::init {

namespace {

using agent_abi::Type;

constexpr std::byte kEndOfFile{4};               // VEOF of a new terminal
constexpr std::size_t kPipeBytes = 64 * 1024;    // what a pipe holds
constexpr std::size_t kOutputPiece = 32 * 1024;  // so that streams take turns
constexpr std::uint32_t kCreditBytes = agent_abi::kStdinWindow / 4;

bool would_block() {
  return errno == EAGAIN || errno == EINTR;
}

void make_non_blocking(const Fd& fd) {
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
}

bool make_pipe(Fd& read_end, Fd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return false;
  read_end = Fd(ends[0]);
  write_end = Fd(ends[1]);
  return true;
}

}  // namespace

Command::~Command() {
  if (pid_ > 0 && !status_) signal(SIGKILL);
}

int Command::start(const Exec& exec) {
  snprintf(name_, sizeof name_, "%s", reinterpret_cast<const char*>(exec.strings.data()));
  tty_ = exec.tty();
  const int error = tty_ ? start_on_terminal(exec) : start_on_pipes(exec);
  return error;
}

void Command::adopt(Child child) {
  pid_ = child.pid;
  report_ = std::move(child.report);
  make_non_blocking(in_);
  for (const Output& output : outputs_)
    if (output.fd.valid()) make_non_blocking(output.fd);
}

int Command::start_on_pipes(const Exec& exec) {
  Fd in, out, error;  // the command's ends
  if (!make_pipe(in, in_) || !make_pipe(outputs_[0].fd, out) || !make_pipe(outputs_[1].fd, error))
    return errno;
  Child child = start_command(exec, {in.get(), out.get(), error.get()});
  if (child.pid < 0) return errno;
  adopt(std::move(child));
  return 0;
}

int Command::start_on_terminal(const Exec& exec) {
  int ends[2];
  const winsize size = {exec.head.rows, exec.head.columns, 0, 0};
  if (openpty(&ends[0], &ends[1], nullptr, nullptr, &size) < 0) return errno;
  const Fd slave(ends[1]);
  in_ = Fd(ends[0]);
  outputs_[0].fd = Fd(fcntl(ends[0], F_DUPFD_CLOEXEC, 4));
  if (!outputs_[0].fd.valid()) return errno;
  fcntl(in_.get(), F_SETFD, FD_CLOEXEC);
  fcntl(slave.get(), F_SETFD, FD_CLOEXEC);
  if (fchown(slave.get(), exec.head.uid, static_cast<gid_t>(-1)) < 0) return errno;
  Child child = start_command(exec, {slave.get(), slave.get(), slave.get(), true});
  if (child.pid < 0) return errno;
  adopt(std::move(child));
  return 0;
}

bool Command::take_input(Bytes bytes) {
  if (input_ends_) return false;
  if (input_.size() + owed_ + bytes.size() > agent_abi::kStdinWindow) return false;
  if (in_.valid())
    input_.push(bytes);
  else
    owed_ += static_cast<std::uint32_t>(bytes.size());
  return true;
}

void Command::close_input() {
  if (!input_ends_ && tty_ && in_.valid()) {
    input_.push({&kEndOfFile, 1});
    end_queued_ = true;
  }
  input_ends_ = true;
}

void Command::signal(int number) const {
  if (pid_ <= 0 || status_) return;
  // Until it has a session of its own there is no such group.
  if (kill(-pid_, number) < 0 && errno == ESRCH) kill(pid_, number);
}

void Command::resize(agent_abi::Resize size) const {
  const winsize kernel_size = {size.rows, size.columns, 0, 0};
  if (tty_ && in_.valid()) ioctl(in_.get(), TIOCSWINSZ, &kernel_size);
}

void Command::ended(int status) {
  status_ = status;
  for (Output& output : outputs_) {
    int waiting = 0;
    if (output.fd.valid()) ioctl(output.fd.get(), FIONREAD, &waiting);
    output.left = std::max(kPipeBytes, static_cast<std::size_t>(std::max(waiting, 0)));
  }
}

void Command::watch(PollSet& set, const Outgoing& out) {
  in_ticket_ = input_.empty() ? PollSet::kNone : set.add(in_.get(), POLLOUT);
  report_ticket_ = set.add(report_.get(), POLLIN);
  // No output before the word that it runs: there is none, but of a child that did not get far.
  const bool room = out.room_for_output() >= kOutputPiece && !report_.valid();
  for (Output& output : outputs_)
    output.ticket = room ? set.add(output.fd.get(), POLLIN) : PollSet::kNone;
}

void Command::read_report(Outgoing& out) {
  StartError error = {};
  const ssize_t got = read(report_.get(), &error, sizeof error);
  if (got < 0 && would_block()) return;
  report_ = Fd();
  if (got == 0) {
    out.put(Type::kStarted, agent_abi::Started{static_cast<std::uint32_t>(pid_)});
    return;
  }
  start_error_ = error;
  char text[256];
  const bool program = error.step == StartError::Step::kProgram;
  const int length =
      snprintf(text, sizeof text, "volt-init: %s: %s%s%s\n", name_,
               program ? "" : step_name(error.step), program ? "" : ": ", reason(error.error));
  out.put(Type::kStderr, std::as_bytes(std::span(text, static_cast<std::size_t>(length))));
}

void Command::took(std::size_t bytes) {
  input_.drop(bytes);
  owed_ += static_cast<std::uint32_t>(bytes);
  if (!end_queued_ || !input_.empty()) return;
  --owed_;  // the end-of-file character was no byte of the host's
  end_queued_ = false;
}

void Command::feed() {
  while (in_.valid() && !input_.empty()) {
    const ssize_t sent = write(in_.get(), input_.front().data(), input_.size());
    if (sent < 0 && would_block()) return;
    took(sent < 0 ? input_.size() : static_cast<std::size_t>(sent));
    if (sent < 0) in_ = Fd();
  }
  if (input_ends_ && !tty_) in_ = Fd();
}

void Command::forward(Output& output, Outgoing& out) {
  while (output.fd.valid() && out.room_for_output() >= kOutputPiece) {
    const ssize_t got = output.left == 0 ? 0
                                         : out.put_read(output.type, output.fd.get(),
                                                        std::min(output.left, kOutputPiece));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN && !status_) return;
    if (got <= 0) {  // EIO: nobody has the terminal open
      output.fd = Fd();
      return;
    }
    if (!status_) return;  // the other stream's turn
    output.left -= static_cast<std::size_t>(got);
  }
}

bool Command::serve(const PollSet& set, Outgoing& out) {
  if (report_.valid() && (status_ || set.readable(report_ticket_))) read_report(out);
  feed();
  if ((owed_ >= kCreditBytes || (owed_ > 0 && input_.empty())) && out.room_for_output() > 0) {
    out.put(Type::kCredit, agent_abi::Credit{owed_});
    owed_ = 0;
  }
  for (Output& output : outputs_)
    if (status_ || set.readable(output.ticket)) forward(output, out);
  if (!status_ || report_.valid() || outputs_[0].fd.valid() || outputs_[1].fd.valid()) return false;

  agent_abi::Exited exited = {};
  exited.cause = static_cast<std::uint32_t>(agent_abi::ExitCause::kCode);
  exited.value = static_cast<std::uint32_t>(WEXITSTATUS(*status_));
  if (start_error_) exited.value = static_cast<std::uint32_t>(exit_code_of(*start_error_));
  if (WIFSIGNALED(*status_)) {
    exited.cause = static_cast<std::uint32_t>(agent_abi::ExitCause::kSignal);
    exited.value = static_cast<std::uint32_t>(WTERMSIG(*status_));
  }
  out.put(Type::kExited, exited);
  return true;
}

}  // namespace volt::init
