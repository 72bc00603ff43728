#include "tools/timed_program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "vmm/identity.h"
#include "vmm/os/fd.h"

namespace volt::tools {
namespace {

constexpr std::size_t kMostOutput = 1 << 20;

// One of its streams, until the other end is closed.
struct Stream {
  Fd ours;
  Fd theirs;
  std::string text;

  static Result<Stream> open() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe2");
    return Stream{Fd(ends[0]), Fd(ends[1]), {}};
  }

  Result<> read() {
    std::array<char, 16384> chunk;
    const ssize_t got = ::read(ours.get(), chunk.data(), chunk.size());
    if (got < 0 && errno != EINTR) return sys_error("read", "a program's output");
    if (got == 0) ours = Fd();
    if (got > 0 && text.size() < kMostOutput) {
      text.append(chunk.data(), static_cast<std::size_t>(got));
    }
    return {};
  }
};

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  return all;
}

// A process that is killed and waited for, if nobody did that before.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    wait();
  }

  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

struct Streams {
  int in, out, err;
};

// Only what may be called between a fork and an exec.
[[noreturn]] void become_program(pid_t parent, const char* path, char* const* words,
                                 char* const* variables, Streams streams) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() == parent && ::dup2(streams.in, STDIN_FILENO) >= 0 &&
      ::dup2(streams.out, STDOUT_FILENO) >= 0 && ::dup2(streams.err, STDERR_FILENO) >= 0) {
    ::execve(path, words, variables);
  }
  ::_exit(127);
}

// Until both streams have ended.
Result<> attend(Stream& out, Stream& err, std::uint64_t spawned_ns, vmm::Deadline deadline,
                ProgramTimes& times) {
  constexpr int kLookAgainMs = 200;
  while (out.ours.valid() || err.ours.valid()) {
    VOLT_TRY(vmm::check_stop());
    if (deadline.passed()) return fail(Code::kDeadline, "it did not end in time");
    pollfd watched[] = {{out.ours.valid() ? out.ours.get() : -1, POLLIN, 0},
                        {err.ours.valid() ? err.ours.get() : -1, POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), kLookAgainMs);
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    if (ready <= 0) continue;
    if (watched[0].revents != 0) {
      const std::uint64_t now = vmm::monotonic_clock_ns();
      VOLT_TRY(out.read());
      if (times.first_byte_ns == 0 && !out.text.empty()) times.first_byte_ns = now - spawned_ns;
    }
    if (watched[1].revents != 0) VOLT_TRY(err.read());
  }
  return {};
}

}  // namespace

Result<ProgramTimes> time_program(TimedProgram program, vmm::Deadline deadline) {
  std::vector<char*> words = pointers_to(program.words);
  words.push_back(nullptr);
  std::vector<char*> variables = pointers_to(program.variables);
  for (char** each = environ; *each != nullptr; ++each) variables.push_back(*each);
  variables.push_back(nullptr);
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!nothing.valid()) return sys_error("open", "/dev/null");
  Stream out = VOLT_TRY(Stream::open());
  Stream err = VOLT_TRY(Stream::open());
  const Streams streams = {nothing.get(), out.theirs.get(), err.theirs.get()};
  const pid_t parent = ::getpid();
  const std::uint64_t spawned_ns = vmm::monotonic_clock_ns();
  const pid_t pid = ::fork();
  if (pid < 0) return sys_error("fork");
  if (pid == 0) {
    become_program(parent, program.path.c_str(), words.data(), variables.data(), streams);
  }
  Child child(pid);
  out.theirs = Fd();
  err.theirs = Fd();
  ProgramTimes times;
  VOLT_TRY_IN(program.words[0], attend(out, err, spawned_ns, deadline, times));
  times.status = child.wait();
  times.exit_ns = vmm::monotonic_clock_ns() - spawned_ns;
  times.out = std::move(out.text);
  times.err = std::move(err.text);
  return times;
}

std::string find_program(const std::string& name) {
  if (name.contains('/')) return ::access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

}  // namespace volt::tools
