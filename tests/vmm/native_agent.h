// volt-init as a process of this machine, and sessions with it over its unix socket. As root it
// gets an /etc, a /run and a hostname of its own, and a control group that is all of its guest.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "tools/guest/init_image.h"
#include "vmm/agent_client.h"

namespace volt::vmm {

namespace fs = std::filesystem;

inline Deadline patient() {
  return Deadline::in_ms(120'000);
}

inline void write_file(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline void write_program(const fs::path& path, std::string_view text) {
  write_file(path, text);
  fs::permissions(path, fs::perms{0755});
}

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void pause_ms(int ms) {
  ::poll(nullptr, 0, ms);
}

// Until `holds`, or far too long.
template <typename Condition>
bool eventually(Condition holds) {
  for (const Deadline limit = patient(); !holds(); pause_ms(5))
    if (limit.passed()) return false;
  return true;
}

inline sockaddr_un unix_address(const fs::path& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
  return address;
}

inline Fd listen_on(const fs::path& path) {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = unix_address(path);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), 4) != 0)
    return {};
  return socket;
}

class NativeAgent {
 public:
  enum class Kind { kPlain, kOwnGuest };  // kOwnGuest is what the head says of root

  explicit NativeAgent(Kind kind = Kind::kPlain) : kind_(kind) {
    char name[] = "/tmp/volt-agent-XXXXXX";
    folder_ = ::mkdtemp(name);
    for (const char* part : {"etc", "run"}) fs::create_directories(folder_ / part);
    const std::span<const std::byte> program = tools::init_image();
    write_program(folder_ / "volt-init",
                  {reinterpret_cast<const char*>(program.data()), program.size()});
  }
  NativeAgent(const NativeAgent&) = delete;
  NativeAgent& operator=(const NativeAgent&) = delete;

  ~NativeAgent() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (!group_.empty()) {
      write_file(group_ / "cgroup.kill", "1");
      for (const char* part : {"volt", "volt-agent", ""})
        eventually([&] { return ::rmdir((group_ / part).c_str()) == 0 || errno == ENOENT; });
    }
    fs::remove_all(folder_);
  }

  // Why this machine has no guest of its own for it; empty if it has.
  static std::string no_own_guest() {
    if (::geteuid() != 0) return "not root";
    if (hierarchy().empty()) return "no control groups, version 2";
    const fs::path probe = hierarchy() / ("volt-probe-" + std::to_string(::getpid()));
    if (::mkdir(probe.c_str(), 0755) != 0) return "no control group can be made";
    ::rmdir(probe.c_str());
    return "";
  }

  // Returns once it listens and has said READY.
  agent_abi::Ready start() {
    const Fd listener = listen_on(folder_ / "agent_1024");
    if (kind_ == Kind::kOwnGuest) {
      group_ = hierarchy() / ("volt-test-" + std::to_string(::getpid()));
      ::mkdir(group_.c_str(), 0755);
    }
    pid_ = ::fork();
    if (pid_ == 0) become_agent();
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    pollfd fds[] = {{listener.get(), POLLIN, 0}, {process.get(), POLLIN, 0}};
    ::poll(fds, 2, 120'000);
    if (fds[0].revents == 0) {
      ADD_FAILURE() << "it does not come up: " << console();
      return {};
    }
    const Fd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto ready = receive_ready(Fd(::dup(connection.get())), patient());
    EXPECT_TRUE(ready) << ready.error().context << "\n" << console();
    return ready ? *ready : agent_abi::Ready{};
  }

  Fd connect() const {
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = unix_address(folder_ / "agent");
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      ADD_FAILURE() << "connect: " << std::strerror(errno) << "\n" << console();
    return socket;
  }

  // Its status, once it has ended by itself.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

  const fs::path& folder() const { return folder_; }
  const fs::path& group() const { return group_; }
  std::string console() const { return read_file(folder_ / "console"); }

 private:
  static fs::path hierarchy() {
    for (const char* path : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      struct statfs status;
      if (::statfs(path, &status) == 0 && status.f_type == CGROUP2_SUPER_MAGIC) return path;
    }
    return {};
  }

  [[noreturn]] void become_agent() const {
    if (kind_ == Kind::kOwnGuest) {
      const bool separate = ::unshare(CLONE_NEWNS | CLONE_NEWUTS) == 0 &&
                            ::mount("", "/", "", MS_REC | MS_PRIVATE, "") == 0;
      for (const char* part : {"etc", "run"})
        if (!separate ||
            ::mount((folder_ / part).c_str(), fs::path("/").append(part).c_str(), "", MS_BIND, ""))
          ::_exit(99);
    }
    const int console =
        ::open((folder_ / "console").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    ::dup2(console, STDERR_FILENO);
    // A message that is late by a second would set the clock of this machine.
    ::prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0);
    const std::string program = folder_ / "volt-init", socket = folder_ / "agent";
    const char* const group = kind_ == Kind::kOwnGuest ? "--cgroup" : nullptr;
    ::execl(program.c_str(), "volt-init", "--serve", socket.c_str(), group, group_.c_str(),
            nullptr);
    ::_exit(98);
  }

  Kind kind_;
  fs::path folder_, group_;
  pid_t pid_ = -1;
};

// What became of a command.
struct Ran {
  std::string out, err;
  std::optional<AgentExit> exit;
  std::uint32_t pid = 0;
  std::string error;  // of the session
};

// Handles one event; true at the end.
inline bool take_event(Ran& ran, const AgentExec::Event& event) {
  if (const auto* output = std::get_if<AgentOutput>(&event)) {
    std::string& to = output->is_error ? ran.err : ran.out;
    to.append(reinterpret_cast<const char*>(output->bytes.data()), output->bytes.size());
  }
  if (const auto* started = std::get_if<AgentExec::Started>(&event)) ran.pid = started->pid;
  if (const auto* exit = std::get_if<AgentExit>(&event)) ran.exit = *exit;
  return ran.exit.has_value();
}

// Until `enough` says so, or the command's end.
template <typename Enough>
void follow(AgentExec& exec, Ran& ran, Enough enough) {
  while (!enough()) {
    const auto event = exec.next(patient());
    if (!event) ran.error = event.error().context;
    if (!event || take_event(ran, *event)) return;
  }
}

// Runs it to its end, with `input` as its input.
inline Ran run(const NativeAgent& agent, const AgentCommand& command, std::string_view input = {}) {
  Ran ran;
  auto exec = AgentExec::start(agent.connect(), command);
  if (!exec) {
    ran.error = exec.error().context;
    return ran;
  }
  while (!input.empty() && ran.error.empty() && !ran.exit) {
    const auto taken = exec->write_stdin(std::as_bytes(std::span(input)));
    if (!taken) break;
    input.remove_prefix(*taken);
    if (!input.empty()) follow(*exec, ran, [&] { return exec->stdin_room() > 0; });
  }
  if (!exec->close_stdin()) ran.error = "close_stdin";
  if (!ran.exit) follow(*exec, ran, [] { return false; });
  return ran;
}

inline AgentCommand shell(std::string text) {
  return {.arguments = {"sh", "-c", std::move(text)}};
}

}  // namespace volt::vmm
