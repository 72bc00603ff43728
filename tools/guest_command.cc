#include "tools/guest_command.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <iterator>
#include <optional>

#include "vmm/identity.h"

namespace volt::tools {
namespace {

constexpr std::size_t kPiece = 64 << 10;

volatile std::sig_atomic_t g_resized = 0;

void on_resize(int) {
  g_resized = 1;
}

// This process's terminal, passing every key on and telling of its size, for as long as it lives.
class RawTerminal {
 public:
  static std::optional<RawTerminal> begin() {
    struct sigaction resized = {};
    resized.sa_handler = on_resize;
    ::sigaction(SIGWINCH, &resized, nullptr);
    termios before;
    if (::tcgetattr(STDIN_FILENO, &before) != 0) return std::nullopt;
    termios raw = before;
    ::cfmakeraw(&raw);
    if (::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) != 0) return std::nullopt;
    return RawTerminal(before);
  }
  RawTerminal(RawTerminal&& other) noexcept
      : before_(other.before_), ours_(std::exchange(other.ours_, false)) {}
  RawTerminal& operator=(RawTerminal&&) = delete;
  ~RawTerminal() {
    if (ours_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }

 private:
  explicit RawTerminal(const termios& before) : before_(before) {}
  termios before_;
  bool ours_ = true;
};

// Finds the keys that end a session which nothing else can: a new line, ~ and a dot, as with ssh.
// They are passed on all the same.
class EscapeKeys {
 public:
  bool found_in(std::span<const std::byte> typed) {
    for (const std::byte byte : typed) {
      const char key = static_cast<char>(byte);
      if (key == '.' && after_ == After::kTilde) return true;
      const bool tilde = key == '~' && after_ == After::kNewLine;
      after_ =
          tilde ? After::kTilde : (key == '\r' || key == '\n' ? After::kNewLine : After::kOther);
    }
    return false;
  }

 private:
  enum class After { kNewLine, kTilde, kOther } after_ = After::kNewLine;
};

agent_abi::Resize terminal_size() {
  winsize size = {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) return {24, 80};
  return {size.ws_row, size.ws_col};
}

class Session {
 public:
  Session(vmm::AgentExec exec, int machine_ended, bool alone, bool terminal)
      : exec_(std::move(exec)), machine_ended_(machine_ended), alone_(alone), terminal_(terminal) {}

  Result<GuestExit> run(vmm::Deadline deadline) {
    if (alone_) {
      input_ended_ = true;
      VOLT_TRY(exec_.close_stdin());
    }
    for (;;) {
      VOLT_TRY(take_events());
      if (done_) return exit_;
      VOLT_TRY(pass_signal_on());
      VOLT_TRY(pass_size_on());
      if (deadline.passed()) return fail(Code::kDeadline, "the command did not end in time");
      VOLT_TRY(wait(deadline));
    }
  }

 private:
  Result<> take_events() {
    for (;;) {
      const std::optional<vmm::AgentExec::Event> event = VOLT_TRY(exec_.try_next());
      if (!event) return {};
      if (const auto* output = std::get_if<vmm::AgentOutput>(&*event)) {
        if (exit_.first_byte_ns == 0) exit_.first_byte_ns = vmm::monotonic_clock_ns();
        const bool is_talk = output->is_error || alone_;
        VOLT_TRY(write_out(is_talk ? STDERR_FILENO : STDOUT_FILENO, output->bytes));
      } else if (const auto* exit = std::get_if<vmm::AgentExit>(&*event)) {
        exit_.code = exit->shell_code();
        done_ = true;
        return {};
      }
    }
  }

  // Whoever reads it may be slow, and the command must hear of a signal all the same.
  Result<> write_out(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd, bytes.data(), bytes.size());
      if (written < 0 && errno == EIO && vmm::stop_requested()) return {};  // that terminal is gone
      if (written < 0 && errno != EINTR) return sys_error("write", fd == 1 ? "stdout" : "stderr");
      if (written > 0) bytes = bytes.subspan(static_cast<std::size_t>(written));
      VOLT_TRY(pass_signal_on());
    }
    return {};
  }

  // The first one is the command's to answer, and what it does then is what comes of it, unless
  // this process has more to do than the command; the second kills this process.
  Result<> pass_signal_on() {
    if (!vmm::stop_requested() || signalled_) return {};
    signalled_ = true;
    if (!alone_) vmm::stop_answered();
    return exec_.signal(vmm::stop_signal());
  }

  Result<> pass_size_on() {
    if (!terminal_ || g_resized == 0) return {};
    g_resized = 0;
    return exec_.resize(terminal_size());
  }

  Result<> wait(vmm::Deadline deadline) {
    const bool room = !input_ended_ && exec_.stdin_room() > 0;
    pollfd watched[] = {{exec_.stream().fd(), exec_.stream().poll_events(), 0},
                        {machine_ended_, POLLIN, 0},
                        {room ? STDIN_FILENO : -1, POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), deadline.poll_ms());
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    if (ready <= 0) return {};
    if (watched[2].revents != 0) VOLT_TRY(take_input());
    if (watched[0].revents == 0 && watched[1].revents != 0) {
      return fail(Code::kGuestCrashed, "the guest ended before the command did");
    }
    return {};
  }

  Result<> take_input() {
    std::byte typed[kPiece];
    const ssize_t got = ::read(STDIN_FILENO, typed, std::min(sizeof typed, exec_.stdin_room()));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return {};
    if (got <= 0) {
      input_ended_ = true;
      return exec_.close_stdin();
    }
    const std::span<const std::byte> keys = std::span(typed).first(static_cast<std::size_t>(got));
    if (terminal_ && escape_.found_in(keys)) {
      return fail(Code::kInterrupted, "stopped by ~.");
    }
    // All of it is taken: no more was read than there is room for.
    static_cast<void>(VOLT_TRY(exec_.write_stdin(keys)));
    return {};
  }

  vmm::AgentExec exec_;
  int machine_ended_;
  bool alone_;
  bool terminal_;
  EscapeKeys escape_;
  GuestExit exit_;
  bool done_ = false, signalled_ = false, input_ended_ = false;
};

vmm::AgentCommand asked_of(const GuestCommand& command) {
  vmm::AgentCommand asked = {.arguments = command.words,
                             .variables = command.variables,
                             .directory = command.directory,
                             .uid = command.user.uid,
                             .gid = command.user.gid};
  if (command.tty) asked.terminal = terminal_size();
  return asked;
}

}  // namespace

Result<> check_command(const GuestCommand& command) {
  static_cast<void>(VOLT_TRY(vmm::encode_exec(asked_of(command))));
  return {};
}

Result<GuestExit> run_in_guest(vmm::AgentConnection agent, const GuestCommand& command,
                               vmm::Deadline deadline) {
  const int machine_ended = agent.machine_ended;
  // First, so that it misses no change of the size that the command is told.
  const std::optional<RawTerminal> raw = command.tty ? RawTerminal::begin() : std::nullopt;
  vmm::AgentExec exec = VOLT_TRY(vmm::AgentExec::start(std::move(agent), asked_of(command)));
  Session session(std::move(exec), machine_ended, command.alone, raw.has_value());
  return session.run(deadline);
}

}  // namespace volt::tools
