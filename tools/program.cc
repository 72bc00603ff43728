#include "tools/program.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string_view>

#include "vmm/interrupt.h"
#include "vmm/os/fd.h"

namespace volt::tools {
namespace {

constexpr std::size_t kMostText = 1 << 20;

struct Pipe {
  Fd read;
  Fd write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe2");
  return Pipe{Fd{ends[0]}, Fd{ends[1]}};
}

// The environment, with texts as programs understand them.
std::vector<char*> c_locale_environment() {
  static char locale[] = "LC_ALL=C";
  std::vector<char*> environment;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view text(*each);
    if (!text.starts_with("LC_") && !text.starts_with("LANG")) environment.push_back(*each);
  }
  environment.push_back(locale);
  environment.push_back(nullptr);
  return environment;
}

Result<pid_t> start(const std::vector<std::string>& words, const std::string& directory,
                    const Fd& output) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  if (::posix_spawn_file_actions_init(&actions) != 0) return fail(Code::kSystem, "no memory");
  pid_t child = -1;
  int error = ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  if (error == 0) error = ::posix_spawn_file_actions_adddup2(&actions, output.get(), 1);
  if (error == 0) error = ::posix_spawn_file_actions_adddup2(&actions, output.get(), 2);
  if (error == 0) error = ::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  std::vector<char*> environment = c_locale_environment();
  if (error == 0) {
    error = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(),
                           environment.data());
  }
  ::posix_spawn_file_actions_destroy(&actions);
  if (error == 0) return child;
  errno = error;
  auto failed = sys_error("start", words[0]);
  if (error == ENOENT) failed.error().code = Code::kNotFound;
  return failed;
}

// Until every holder of the other end has closed it. A signal that comes between the look at the
// flag and poll() is seen a moment later.
Result<std::string> read_all(const Fd& from) {
  constexpr int kLookAgainMs = 200;
  std::string text;
  std::array<char, 16384> chunk;
  for (;;) {
    VOLT_TRY(vmm::check_stop());
    pollfd ready = {.fd = from.get(), .events = POLLIN, .revents = 0};
    const int count = ::poll(&ready, 1, kLookAgainMs);
    if (count < 0 && errno != EINTR) return sys_error("poll");
    if (count <= 0) continue;
    const ssize_t got = ::read(from.get(), chunk.data(), chunk.size());
    if (got < 0) return sys_error("read", "a program's output");
    if (got == 0) return text;
    if (text.size() < kMostText) text.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

Result<int> wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return sys_error("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<ProgramOutput> run_program(const std::vector<std::string>& words,
                                  const std::string& directory) {
  Pipe pipe = VOLT_TRY(make_pipe());
  const pid_t child = VOLT_TRY(start(words, directory, pipe.write));
  pipe.write = Fd();
  Result<std::string> text = read_all(pipe.read);
  if (!text) ::kill(child, SIGTERM);
  const int status = VOLT_TRY(wait_for(child));
  if (!text) return std::unexpected(text.error());
  return ProgramOutput{status, *std::move(text)};
}

std::string last_line(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const std::size_t start = text.rfind('\n');
  return std::string(start == text.npos ? text : text.substr(start + 1));
}

}  // namespace volt::tools
