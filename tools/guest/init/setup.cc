#include "tools/guest/init/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/guest/init/files.h"
#include "tools/guest/init/log.h"
#include "vmm/os/fd.h"

namespace volt::init {

namespace {

struct Mount {
  const char* type;
  const char* path;
  unsigned long flags;
  const char* options;
};

constexpr unsigned long kPlain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

constexpr Mount kMounts[] = {
    {"proc", "/proc", kPlain, nullptr},
    {"sysfs", "/sys", kPlain, nullptr},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", kPlain, nullptr},
};

constexpr char kModules[] = "/volt/modules";
constexpr std::size_t kHostnameBytes = 64;

void name_guest(const char* text) {
  const std::size_t length = strcspn(text, " \t\n");
  if (length == 0) return;
  if (length > kHostnameBytes || sethostname(text, length) != 0)
    say_error("hostname", length > kHostnameBytes ? ENAMETOOLONG : errno);
}

// The word of the kernel's command line that begins so, behind that; null if there is none.
const char* command_line_value(const char* line, const char* key) {
  for (const char* at = strstr(line, key); at != nullptr; at = strstr(at + 1, key))
    if (at == line || at[-1] == ' ') return at + strlen(key);
  return nullptr;
}

}  // namespace

void mount_all() {
  for (const Mount& wanted : kMounts) {
    mkdir(wanted.path, 0755);
    if (mount(wanted.type, wanted.path, wanted.type, wanted.flags, wanted.options) != 0 &&
        errno != EBUSY)
      say_error(wanted.path, errno);
  }
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

void set_hostname() {
  char text[8192];
  if (read_text("/proc/cmdline", text, sizeof text) > 0)
    if (const char* name = command_line_value(text, "volt.hostname=")) return name_guest(name);
  if (read_text("/etc/hostname", text, sizeof text) > 0) name_guest(text);
}

void raise_loopback() {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  memcpy(request.ifr_name, "lo", 3);
  if (!socket.valid() || ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0)
    return say_error("lo", errno);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) say_error("lo", errno);
}

void load_modules() {
  static Names names;
  const int error = names.read(kModules);
  if (error != 0 && error != ENOENT) say_error(kModules, error);
  for (std::size_t i = 0; i < names.count; ++i) {
    const char* name = names.names[i];
    const std::size_t length = strlen(name);
    if (length <= 3 || strcmp(name + length - 3, ".ko") != 0) continue;
    const Fd file(open(Path(kModules, name).text, O_RDONLY | O_CLOEXEC));
    const bool loaded =
        file.valid() && (syscall(SYS_finit_module, file.get(), "", 0) == 0 || errno == EEXIST);
    if (!loaded) say_error(name, errno);
  }
}

}  // namespace volt::init
