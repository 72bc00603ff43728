#include "tools/guest/init/shutdown.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/files.h"
#include "tools/guest/init/log.h"

namespace volt::init {

namespace {

constexpr std::int64_t kKillMs = 2'000;

// Until init has no children any more, that is until nothing else is there.
void collect_all(const Children& children, std::int64_t deadline_ms) {
  for (;;) {
    pid_t pid = 0;
    int status = 0;
    while (children.next(pid, status)) {
    }
    if (waitid(P_ALL, 0, nullptr, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD) return;
    if (now_ms() >= deadline_ms) return;
    children.wait(std::min(deadline_ms, now_ms() + 100));
    children.next_signal();
  }
}

// /proc/mounts writes a blank as \040; the kernel takes it as it is.
void unescape(char* text) {
  char* to = text;
  for (const char* from = text; *from != '\0';) {
    unsigned code = 0;
    if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
      *to++ = static_cast<char>(code);
      from += 4;
    } else {
      *to++ = *from++;
    }
  }
  *to = '\0';
}

// The last mounted first: what lies on another goes before it.
void unmount_all() {
  static char mounts[128 * 1024];
  long length = read_text("/proc/self/mounts", mounts, sizeof mounts);
  while (length > 0) {
    mounts[length] = '\0';
    char* line = mounts + length;
    while (line > mounts && line[-1] != '\n') --line;
    length = line - mounts - 1;
    char* path = strchr(line, ' ');
    if (path == nullptr) continue;
    char* end = strchr(++path, ' ');
    if (end == nullptr) continue;
    *end = '\0';
    unescape(path);
    if (strcmp(path, "/") == 0 || strcmp(path, "/proc") == 0) continue;
    if (umount2(path, 0) < 0) umount2(path, MNT_DETACH);
  }
  mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
}

}  // namespace

void end_guest(const Shutdown& how, const Children& children) {
  say("%s", how.reboot ? "restarting" : "switching off");
  if (!how.frozen && how.grace_ms > 0) {
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    collect_all(children, now_ms() + std::min(how.grace_ms, std::uint32_t{60'000}));
  }
  kill(-1, SIGKILL);
  collect_all(children, now_ms() + kKillMs);
  sync();
  unmount_all();
  sync();
  reboot(how.reboot ? RB_AUTOBOOT : RB_POWER_OFF);
  say_error("the machine does not end", errno);
  for (;;) pause();
}

void ask_for_end(const Shutdown& how) {
  // A frozen init answers nobody.
  if (how.frozen) {
    sync();
    reboot(how.reboot ? RB_AUTOBOOT : RB_POWER_OFF);
  }
  const char* program = how.reboot ? "reboot" : "poweroff";
  execlp(program, program, nullptr);
  say_error(program, errno);
  _exit(1);
}

}  // namespace volt::init
