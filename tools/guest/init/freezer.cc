#include "tools/guest/init/freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

namespace volt::init {

namespace {

constexpr char kAgentGroup[] = "volt-agent";
constexpr char kCommandGroup[] = "volt";
constexpr char kOwn[] = "/run/volt/cgroup";  // where we mount it if nobody has
constexpr std::int64_t kLookAgainMs = 20;

bool is_hierarchy(const char* path) {
  struct statfs status;
  return statfs(path, &status) == 0 && status.f_type == CGROUP2_SUPER_MAGIC;
}

const char* find_hierarchy() {
  for (const char* path : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
    if (is_hierarchy(path)) return path;
  mkdir("/run/volt", 0755);
  mkdir(kOwn, 0755);
  const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  return mount("cgroup2", kOwn, "cgroup2", flags, nullptr) == 0 ? kOwn : nullptr;
}

int enter(const char* group) {
  return write_text(Path(group, "cgroup.procs").text, "0");
}

// A thread of the kernel's, or a process that is no more: neither has a program.
bool runs_no_program(long pid) {
  char path[64], target[8];
  snprintf(path, sizeof path, "/proc/%ld/exe", pid);
  return readlink(path, target, sizeof target) < 0 && errno == ENOENT;
}

bool is_frozen(const char* events) {
  return strstr(events, "frozen 1") != nullptr;
}

// Waits until the group's events change, or a while; true if it is frozen.
bool wait_frozen(const char* group, std::int64_t deadline_ms) {
  const Fd file(open(Path(group, "cgroup.events").text, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return errno == ENOENT;  // removed, so nobody is in it
  for (;;) {
    char events[128];
    const ssize_t got = pread(file.get(), events, sizeof events - 1, 0);
    if (got < 0) return errno == ENODEV;
    events[got] = '\0';
    if (is_frozen(events)) return true;
    const std::int64_t left = deadline_ms - now_ms();
    if (left <= 0) return false;
    pollfd fd = {file.get(), POLLPRI, 0};
    if (poll(&fd, 1, static_cast<int>(std::min(left, kLookAgainMs))) == 0) return false;
  }
}

}  // namespace

int Freezer::open(const char* root) {
  if (root == nullptr) root = find_hierarchy();
  if (root == nullptr || strlen(root) >= sizeof root_ || !is_hierarchy(root)) return ENOTSUP;
  const Path agent(root, kAgentGroup), commands(root, kCommandGroup);
  mkdir(agent.text, 0755);
  mkdir(commands.text, 0755);
  if (const int error = enter(agent.text); error != 0) return error;
  const Path procs(commands.text, "cgroup.procs");
  command_procs_ = Fd(::open(procs.text, O_WRONLY | O_CLOEXEC));
  if (!command_procs_.valid()) return errno;
  snprintf(root_, sizeof root_, "%s", root);
  return 0;
}

bool Freezer::freeze_new_groups(Failure& failure) {
  static Names names;
  if (const int error = names.read(root_); error != 0)
    return failure.set(error, "%s: %s", root_, reason(error));
  for (std::size_t i = 0; i < names.count; ++i) {
    const char* name = names.names[i];
    if (strcmp(name, kAgentGroup) == 0) continue;
    const Path switch_file(Path(root_, name).text, "cgroup.freeze");
    char state[8];
    if (read_text(switch_file.text, state, sizeof state) < 0) continue;  // no group
    if (state[0] != '0') continue;  // it is frozen: by us, or by somebody who will thaw it
    const int error = write_text(switch_file.text, "1");
    if (error == ENOENT || error == ENODEV) continue;
    if (error != 0) return failure.set(error, "group %s: %s", name, reason(error));
    if (frozen_.count == Names::kCapacity) return failure.set(E2BIG, "too many groups");
    snprintf(frozen_.names[frozen_.count++], sizeof frozen_.names[0], "%s", name);
  }
  return true;
}

bool Freezer::move_stragglers(bool& moved, Failure& failure) {
  static char text[256 * 1024];
  moved = false;
  if (read_text(Path(root_, "cgroup.procs").text, text, sizeof text) < 0)
    return failure.set(errno, "%s: %s", root_, reason(errno));
  for (char* at = text; *at != '\0';) {
    const long pid = static_cast<long>(strtoll(at, &at, 10));
    while (*at == '\n') ++at;
    // Such processes belong to a machine of which this guest is a part, not to the guest.
    if (pid == 0) return failure.set(EPERM, "there are processes beyond the agent's namespace");
    if (runs_no_program(pid)) continue;
    char line[32];
    const int length = snprintf(line, sizeof line, "%ld", pid);
    if (write(command_procs_.get(), line, static_cast<std::size_t>(length)) == length)
      moved = true;
    else if (errno != ESRCH)
      return failure.set(errno, "process %ld: %s", pid, reason(errno));
  }
  return true;
}

bool Freezer::agent_alone() const {
  char text[256], self[32];
  snprintf(self, sizeof self, "%d\n", static_cast<int>(getpid()));
  const Path procs(Path(root_, kAgentGroup).text, "cgroup.procs");
  return read_text(procs.text, text, sizeof text) > 0 && strcmp(text, self) == 0;
}

bool Freezer::try_freeze(std::int64_t deadline_ms, Failure& failure) {
  for (;;) {
    bool moved = false;
    if (!move_stragglers(moved, failure) || !freeze_new_groups(failure)) return false;
    const char* late = nullptr;
    for (std::size_t i = 0; i < frozen_.count && late == nullptr; ++i)
      if (!wait_frozen(Path(root_, frozen_.names[i]).text, deadline_ms)) late = frozen_.names[i];
    if (late == nullptr && !moved && agent_alone()) return true;
    if (now_ms() < deadline_ms) continue;
    return failure.set(ETIMEDOUT, "group %s does not freeze in time",
                       late != nullptr ? late : kAgentGroup);
  }
}

bool Freezer::freeze(std::int64_t deadline_ms, std::uint32_t& groups, Failure& failure) {
  if (!command_procs_.valid())
    return failure.set(ENOTSUP, "the guest has no control groups (version 2)");
  frozen_.count = 0;
  if (!try_freeze(deadline_ms, failure)) {
    Failure another;
    if (!thaw(another)) say("thawing: %s", another.text);
    return false;
  }
  groups = static_cast<std::uint32_t>(frozen_.count);
  return true;
}

bool Freezer::thaw(Failure& failure) {
  bool all = true;
  for (std::size_t i = 0; i < frozen_.count; ++i) {
    const Path switch_file(Path(root_, frozen_.names[i]).text, "cgroup.freeze");
    const int error = write_text(switch_file.text, "0");
    if (error != 0 && error != ENOENT)
      all = failure.set(error, "thawing group %s: %s", frozen_.names[i], reason(error));
  }
  return all;
}

}  // namespace volt::init
