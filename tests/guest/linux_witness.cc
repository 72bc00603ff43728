// A process of a Linux guest that sees its own capture: until it is killed it writes a line a
// round, at once, of what must be new or right in a clone from its first instruction on:
//   wall clock (us)  monotonic clock (us)  CPU  16 bytes of getrandom(2)  a UUID of the kernel's
//   and the wall clock again: a capture may come between any two of these
// usage: linux_witness_test FILE MILLISECONDS [CPU]
// Or it holds a stream to the host, notes what becomes of it, and opens the next:
//   linux_witness_test stream FILE
// Or it says what the guest's vsock CID is: linux_witness_test cid
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::int64_t clock_us(clockid_t clock) {
  timespec now = {};
  ::clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

bool stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  return ::sched_setaffinity(0, sizeof set, &set) == 0;
}

bool read_uuid(char (&uuid)[37]) {
  const int fd = ::open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
  const bool got = fd >= 0 && ::read(fd, uuid, 36) == 36;
  ::close(fd);
  return got;
}

bool write_line(int file) {
  const std::int64_t wall_us = clock_us(CLOCK_REALTIME), mono_us = clock_us(CLOCK_MONOTONIC);
  unsigned char bytes[16];
  char uuid[37] = {};
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes || !read_uuid(uuid)) return false;
  char hex[33];
  for (int i = 0; i < 16; ++i) std::snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
  char line[160];
  const int length =
      std::snprintf(line, sizeof line, "%lld %lld %d %s %s %lld\n", static_cast<long long>(wall_us),
                    static_cast<long long>(mono_us), ::sched_getcpu(), hex, uuid,
                    static_cast<long long>(clock_us(CLOCK_REALTIME)));
  return ::write(file, line, static_cast<std::size_t>(length)) == length;
}

void note(int file, const char* what, int number) {
  char line[64];
  const int length = std::snprintf(line, sizeof line, "%s %d\n", what, number);
  if (::write(file, line, static_cast<std::size_t>(length)) != length) std::exit(1);
}

// To where the agent calls when it is ready: nobody says anything there.
[[noreturn]] void hold_streams(int file) {
  constexpr unsigned kAgentPort = 1024;
  const timespec pause = {0, 100'000'000};
  for (int number = 1;; ++number) {
    const int stream = ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_vm host = {};
    host.svm_family = AF_VSOCK;
    host.svm_cid = VMADDR_CID_HOST;
    host.svm_port = kAgentPort;
    if (::connect(stream, reinterpret_cast<const sockaddr*>(&host), sizeof host) == 0) {
      note(file, "open", number);
      char byte;
      note(file, "ended with", ::read(stream, &byte, 1) < 0 ? errno : 0);
    }
    ::close(stream);
    ::nanosleep(&pause, nullptr);
  }
}

int say_cid() {
  const int device = ::open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  unsigned cid = 0;
  if (device < 0 || ::ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0) return 1;
  return std::printf("%u\n", cid) > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "cid") == 0) return say_cid();
  if (argc < 3) return 2;
  const bool streams = std::strcmp(argv[1], "stream") == 0;
  const int file = ::open(argv[streams ? 2 : 1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0 || (argc > 3 && !stay_on(static_cast<int>(std::strtoul(argv[3], nullptr, 10)))))
    return 1;
  if (streams) hold_streams(file);
  const timespec pause = {0, static_cast<long>(std::strtoul(argv[2], nullptr, 10)) * 1'000'000L};
  while (write_line(file)) ::nanosleep(&pause, nullptr);
  return 1;
}
