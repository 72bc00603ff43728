// volt-init: the first process of a guest, or the agent under a distribution's init.
//
//   volt-init                    as process 1: prepares the guest, serves, and ends it
//   volt-init --agent            under another init: serves only
//   volt-init --serve SOCKET     serves on a unix socket, for a host that is the same machine
//     --cgroup PATH              the guest is what is below this control group, not all there is
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/guest/init/agent.h"
#include "tools/guest/init/log.h"
#include "tools/guest/init/setup.h"

namespace volt::init {
namespace {

struct Options {
  bool init = false;
  bool agent = false;
  const char* socket = nullptr;
  const char* group = nullptr;
};

bool parse(char** words, Options& options) {
  for (; *words != nullptr; ++words) {
    if (strcmp(*words, "--agent") == 0)
      options.agent = true;
    else if (strcmp(*words, "--serve") == 0 && words[1] != nullptr)
      options.socket = *++words;
    else if (strcmp(*words, "--cgroup") == 0 && words[1] != nullptr)
      options.group = *++words;
    else if (!options
                  .init)  // the kernel hands over words of its command line that it does not know
      return false;
  }
  return options.init || options.agent != (options.socket != nullptr);
}

// 0 to 2 lead somewhere, and 3 nowhere (kNullFd).
void open_first_descriptors() {
  int fd = -1;
  do {
    fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0) fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd < kNullFd);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null != kNullFd) dup3(null, kNullFd, O_CLOEXEC);
  if (fd > kNullFd) close(fd);
  if (null > kNullFd) close(null);
}

void prepare_guest() {
  reboot(RB_DISABLE_CAD);
  umask(022);
  mount_all();
  open_first_descriptors();
  set_hostname();
  raise_loopback();
  load_modules();
}

int serve(const Options& options) {
  static Agent agent;
  if (const int error = agent.children.open(); error != 0) say_error("signals", error);
  // A socket for tests alone may stand on a machine that is not to be frozen.
  if (options.socket == nullptr || options.group != nullptr)
    if (const int error = agent.freezer.open(options.group); error != 0)
      say_error("control groups: the guest cannot be frozen", error);
  set_command_group(agent.freezer.command_group());

  const int error = options.socket != nullptr ? agent.listener.open_unix(options.socket)
                                              : agent.listener.open_vsock();
  if (error != 0) say_error("the host cannot reach this guest", error);
  if (error != 0 && !options.init) return 1;
  agent.services.start_all();
  const Shutdown how = agent.run();
  if (options.init) end_guest(how, agent.children);
  // A signal to a service is about the service alone.
  if (options.agent && !how.by_signal) ask_for_end(how);
  return 0;
}

}  // namespace
}  // namespace volt::init

int main(int, char** words) {
  using namespace volt::init;
  Options options;
  options.init = getpid() == 1;
  if (!parse(words + 1, options)) {
    fprintf(stderr, "usage: volt-init --agent | --serve SOCKET [--cgroup PATH]\n");
    return 2;
  }
  if (options.init)
    prepare_guest();
  else
    open_first_descriptors();
  return serve(options);
}
