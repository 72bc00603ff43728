#include "tools/guest_console.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "tools/output.h"
#include "vmm/identity.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

// What becomes of the user's wish to stop: the first signal presses the button, and from then on
// the guest's time runs. A second one kills, as everywhere.
class Leave {
 public:
  Leave(pc::Power& power, std::uint64_t grace_s) : power_(&power), grace_s_(grace_s) {}

  Result<> check() {
    if (grace_s_ == 0 || !vmm::stop_requested()) return vmm::check_stop();
    if (!until_) {
      progress("power button pressed; the guest has " + std::to_string(grace_s_) +
               " s to end, again: at once");
      until_ = vmm::Deadline::in_ms(grace_s_ * 1000);
      power_->announce(pc::kPowerButtonBit);
    }
    if (!until_->passed()) return {};
    return fail(Code::kInterrupted, "stopped by a signal: the guest did not end within " +
                                        std::to_string(grace_s_) + " s of its power button");
  }
  vmm::Deadline sooner(vmm::Deadline deadline) const {
    return until_ && until_->at_ns < deadline.at_ns ? *until_ : deadline;
  }

 private:
  pc::Power* power_;
  std::uint64_t grace_s_;
  std::optional<vmm::Deadline> until_;
};

// Bytes to stdout as they come.
Result<> show(std::string_view bytes, Leave& leave) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0 && errno == EIO && vmm::stop_requested()) return {};  // the terminal is gone
    if (written < 0 && errno != EINTR) return sys_error("write", "stdout");
    if (written > 0) bytes.remove_prefix(static_cast<std::size_t>(written));
    VOLT_TRY(leave.check());
  }
  return {};
}

// What is typed goes to the guest's port; what that has no room for waits here.
class Typing {
 public:
  explicit Typing(bool wanted) : more_(wanted) {}

  int fd() const { return more_ && waiting_.empty() ? STDIN_FILENO : -1; }
  void read() {
    std::byte typed[256];
    const ssize_t got = ::read(STDIN_FILENO, typed, sizeof typed);
    if (got > 0) waiting_.assign(typed, typed + got);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) more_ = false;
  }
  void pass_on(pc::Serial& serial) {
    if (waiting_.empty()) return;
    const std::size_t taken = serial.type(waiting_);
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
  }
  // Nobody says when there is room again.
  int poll_ms(vmm::Deadline deadline) const {
    constexpr std::uint64_t kLookAgainMs = 50;
    const vmm::Deadline soon = vmm::Deadline::in_ms(kLookAgainMs);
    return waiting_.empty() || deadline.at_ns < soon.at_ns ? deadline.poll_ms() : soon.poll_ms();
  }

 private:
  bool more_;
  std::vector<std::byte> waiting_;
};

}  // namespace

Result<std::uint64_t> grace_seconds(const Arguments& arguments) {
  constexpr std::uint64_t kMost = 3600;
  const std::uint64_t seconds = VOLT_TRY(arguments.number("--grace", 0));
  if (seconds > kMost) return fail(Code::kInvalid, "--grace: 0 to 3600 seconds");
  return seconds;
}

Result<Attended> attend(pc::LinuxMachine& machine, bool console, std::uint64_t grace_s,
                        vmm::Deadline deadline) {
  Typing typing(console);
  Leave leave(machine.pc().power(), grace_s);
  std::uint64_t first_byte_ns = 0;
  for (;;) {
    typing.pass_on(machine.pc().serial());
    pollfd watched[] = {{machine.pc().ended().get(), POLLIN, 0},
                        {machine.console().event().get(), POLLIN, 0},
                        {typing.fd(), POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), typing.poll_ms(leave.sooner(deadline)));
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    // Before what it said: that comes before its end.
    const auto outcome = machine.pc().outcome();
    const std::string said = machine.console().take();
    if (!said.empty() && first_byte_ns == 0) first_byte_ns = vmm::monotonic_clock_ns();
    VOLT_TRY(show(said, leave));
    if (outcome) {
      const pc::Pc::End end = VOLT_TRY(Result<pc::Pc::End>(*outcome));
      return Attended{end, first_byte_ns};
    }
    VOLT_TRY(leave.check());
    if (ready > 0 && watched[2].revents != 0) typing.read();
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not end in time");
  }
}

}  // namespace volt::tools
