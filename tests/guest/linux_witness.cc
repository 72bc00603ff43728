// A process of a Linux guest that sees its own capture: until it is killed it writes a line a
// round, at once, of what must be new or right in a clone from its first instruction on:
//   wall clock (us)  monotonic clock (us)  CPU  16 bytes of getrandom(2)  a UUID of the kernel's
//   and the wall clock again: a capture may come between any two of these
// usage: linux_witness_test FILE MILLISECONDS [CPU]
// Or it holds a stream to the host, notes what becomes of it, and opens the next:
//   linux_witness_test stream FILE
// Or it says what the guest's vsock CID is: linux_witness_test cid
// Or it answers whoever calls a port of the guest, with what was said behind a word, or says
// something to a port of the host:
//   linux_witness_test serve PORT    linux_witness_test tell PORT WORDS
// And on the host, by a guest's vsock path, it calls such a port, or hears one guest that calls:
//   linux_witness_test call PATH PORT WORDS    linux_witness_test hear PATH_PORT
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

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

int vsock_socket(unsigned cid, unsigned port, sockaddr_vm& address) {
  address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

int unix_socket(const char* path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

template <typename Address>
const sockaddr* generic(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

// To where the agent calls when it is ready: nobody says anything there.
[[noreturn]] void hold_streams(int file) {
  constexpr unsigned kAgentPort = 1024;
  const timespec pause = {0, 100'000'000};
  for (int number = 1;; ++number) {
    sockaddr_vm host;
    const int stream = vsock_socket(VMADDR_CID_HOST, kAgentPort, host);
    if (::connect(stream, generic(host), sizeof host) == 0) {
      note(file, "open", number);
      char byte;
      note(file, "ended with", ::read(stream, &byte, 1) < 0 ? errno : 0);
    }
    ::close(stream);
    ::nanosleep(&pause, nullptr);
  }
}

bool send(int stream, const char* words) {
  const std::size_t bytes = std::strlen(words);
  return ::write(stream, words, bytes) == static_cast<ssize_t>(bytes);
}

// Until the other side has no more to say.
int print_all(int stream) {
  char piece[256];
  ssize_t got;
  while ((got = ::read(stream, piece, sizeof piece)) > 0) {
    std::fwrite(piece, 1, static_cast<std::size_t>(got), stdout);
  }
  return got == 0 ? 0 : 1;
}

[[noreturn]] void serve(unsigned port) {
  sockaddr_vm address;
  const int listener = vsock_socket(VMADDR_CID_ANY, port, address);
  if (::bind(listener, generic(address), sizeof address) != 0 || ::listen(listener, 8) != 0) {
    std::exit(1);
  }
  for (;;) {
    const int stream = ::accept(listener, nullptr, nullptr);
    char said[64] = {};
    if (::read(stream, said, sizeof said - 1) > 0 && send(stream, "heard ")) send(stream, said);
    ::close(stream);
  }
}

int tell(unsigned port, const char* words) {
  sockaddr_vm address;
  const int stream = vsock_socket(VMADDR_CID_HOST, port, address);
  if (::connect(stream, generic(address), sizeof address) != 0) return 1;
  return send(stream, words) ? 0 : 1;
}

int call(const char* path, const char* port, const char* words) {
  sockaddr_un address;
  const int stream = unix_socket(path, address);
  if (::connect(stream, generic(address), sizeof address) != 0) return 1;
  const std::string greeting = std::string("CONNECT ") + port + "\n";
  if (!send(stream, greeting.c_str())) return 1;
  std::string line;
  for (char byte; !line.ends_with('\n') && ::read(stream, &byte, 1) == 1;) line += byte;
  if (!line.starts_with("OK ") || !send(stream, words)) return 1;
  return print_all(stream);
}

int hear(const char* path) {
  sockaddr_un address;
  const int listener = unix_socket(path, address);
  if (::bind(listener, generic(address), sizeof address) != 0 || ::listen(listener, 1) != 0) {
    return 1;
  }
  return print_all(::accept(listener, nullptr, nullptr));
}

unsigned number(const char* text) {
  return static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

int say_cid() {
  const int device = ::open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  unsigned cid = 0;
  if (device < 0 || ::ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0) return 1;
  return std::printf("%u\n", cid) > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const auto asked = [&](const char* what, int words) {
    return argc == words && std::strcmp(argv[1], what) == 0;
  };
  if (asked("cid", 2)) return say_cid();
  if (asked("serve", 3)) serve(number(argv[2]));
  if (asked("tell", 4)) return tell(number(argv[2]), argv[3]);
  if (asked("call", 5)) return call(argv[2], argv[3], argv[4]);
  if (asked("hear", 3)) return hear(argv[2]);
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
