#include "tools/guest/init/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "tools/guest/init/files.h"
#include "vmm/os/fd.h"

namespace volt::init {

namespace {

constexpr char kGeneration[] = "/run/volt/generation";
constexpr std::int64_t kSecond = 1'000'000'000;

// Mixed in and, other than by writing to the device, in use before the next byte is given out.
bool reseed(const agent_abi::Resume& resume, Failure& failure) {
  const Fd device(open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!device.valid()) return failure.set(errno, "/dev/urandom: %s", reason(errno));
  constexpr std::size_t kBytes = sizeof resume.entropy + sizeof resume.generation;
  alignas(rand_pool_info) char memory[sizeof(rand_pool_info) + kBytes] = {};
  rand_pool_info* const pool = reinterpret_cast<rand_pool_info*>(memory);
  pool->entropy_count = sizeof resume.entropy * 8;
  pool->buf_size = kBytes;
  char* const bytes = memory + sizeof(rand_pool_info);
  memcpy(bytes, resume.entropy, sizeof resume.entropy);
  memcpy(bytes + sizeof resume.entropy, resume.generation, sizeof resume.generation);
  const bool added = ioctl(device.get(), RNDADDENTROPY, pool) == 0;
  const int error = errno;
  explicit_bzero(memory, sizeof memory);
  if (!added) return failure.set(error, "RNDADDENTROPY: %s", reason(error));
  if (ioctl(device.get(), RNDRESEEDCRNG) != 0)
    return failure.set(errno, "RNDRESEEDCRNG: %s", reason(errno));
  return true;
}

// What the host's clock shows now, by the time that the message took.
bool host_clock(const agent_abi::Resume& resume, std::int64_t& host_ns, Failure& failure) {
  host_ns = static_cast<std::int64_t>(resume.wall_ns);
  if (resume.tsc_khz == 0) return true;
  const auto khz = static_cast<std::int64_t>(resume.tsc_khz);
  const auto ticks = static_cast<std::int64_t>(__rdtsc() - resume.tsc);
  const std::int64_t ms = ticks / khz;
  if (ms > agent_abi::kResumeAgeMaxMs || ms < agent_abi::kResumeAgeMinMs)
    return failure.set(ERANGE, "RESUME took %lld ms by the time stamp counter, so there is no time",
                       static_cast<long long>(ms));
  host_ns += ms * 1'000'000 + ticks % khz * 1'000'000 / khz;
  return true;
}

bool step_clock(const agent_abi::Resume& resume, std::int64_t& step_ns, Failure& failure) {
  const auto guest_ns = static_cast<std::int64_t>(wall_clock_ns());
  std::int64_t host_ns = 0;
  if (!host_clock(resume, host_ns, failure)) return false;
  step_ns = 0;
  if (guest_ns - host_ns > agent_abi::kClockToleranceNs)
    return failure.set(ERANGE,
                       "the guest's clock is %lld ms ahead of the host's and is never set back: "
                       "is the host's clock right?",
                       static_cast<long long>((guest_ns - host_ns) / 1'000'000));
  if (host_ns <= guest_ns) return true;
  const timespec right = {static_cast<time_t>(host_ns / kSecond), host_ns % kSecond};
  if (clock_settime(CLOCK_REALTIME, &right) != 0)
    return failure.set(errno, "setting the clock: %s", reason(errno));
  step_ns = host_ns - guest_ns;
  return true;
}

bool write_generation(const std::uint8_t (&generation)[16], std::uint64_t& resumed,
                      Failure& failure) {
  char text[64];
  unsigned long long count = 0;
  if (read_text(kGeneration, text, sizeof text) > 0) sscanf(text, "%*32s %llu", &count);
  resumed = count + 1;
  char* at = text;
  for (const std::uint8_t byte : generation) at += snprintf(at, 3, "%02x", byte);
  snprintf(at, sizeof text - 32, " %llu\n", count + 1);

  mkdir("/run", 0755);
  mkdir("/run/volt", 0755);
  // Renamed, so that a reader sees one or the other.
  constexpr char kNew[] = "/run/volt/generation.new";
  const Fd file(open(kNew, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const ssize_t length = static_cast<ssize_t>(strlen(text));
  if (!file.valid() || write(file.get(), text, strlen(text)) != length ||
      rename(kNew, kGeneration) != 0)
    return failure.set(errno, "%s: %s", kGeneration, reason(errno));
  return true;
}

}  // namespace

std::uint64_t wall_clock_ns() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec * kSecond + now.tv_nsec);
}

bool take_identity(const ResumeRequest& request, agent_abi::Resumed& done, Failure& failure) {
  if (!reseed(request.head, failure)) return false;
  if (!step_clock(request.head, done.clock_step_ns, failure)) return false;
  const std::size_t length = strlen(request.hostname);
  if (length > 0 && sethostname(request.hostname, length) != 0)
    return failure.set(errno, "hostname: %s", reason(errno));
  if (!write_generation(request.head.generation, done.resumed, failure)) return false;
  done.thawed_ns = wall_clock_ns();
  return true;
}

}  // namespace volt::init
