// Question: what does a fault cost that our in-process pager serves, and what does it cost to
// install a hot set through it, beside the least that could be done?
// Method: the content is in memory and resident, so nothing is read. One thread touches one page of
// each unit of a fresh image in scattered order, each touch timed by wall clock. The floor is a
// bare thread: blocking read(userfaultfd), UFFDIO_COPY of the same unit into the same kind of
// shared mapping, UFFDIO_WAKE; no code of ours. The hot set is every third unit, through
// FaultServer::prefetch, beside one UFFDIO_COPY of as many bytes, and beside one for each. Rounds
// are interleaved, and each goes first in turn; the floor runs twice in each, and its ratio with
// itself is the noise. Not measured: reading, decoding, checking; making and removing images; KVM's
// part of a fault.
//   volt-fault-bench [--json] [ROUNDS]
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "uffd/fault_server.h"

namespace {

using namespace volt;

constexpr std::uint64_t kPage = 4096;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

double now_us() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

std::byte* map(std::uint64_t bytes, int prot, int flags, int fd) {
  void* const at = ::mmap(nullptr, bytes, prot, flags, fd, 0);
  if (at == MAP_FAILED) die("mmap");
  return static_cast<std::byte*>(at);
}

struct Shape {
  std::uint64_t unit_bytes;
  std::uint64_t units;
  std::uint64_t bytes() const { return unit_bytes * units; }
};

// Resident, and different in every page.
std::vector<std::byte> make_content(std::uint64_t bytes) {
  std::vector<std::byte> content(bytes);
  for (std::uint64_t page = 0; page < bytes / kPage; ++page) {
    std::memset(content.data() + page * kPage, static_cast<int>(page % 250 + 1), kPage);
  }
  return content;
}

// One page of each unit, in scattered order; the time of each.
void touch_all(const std::byte* memory, const Shape& shape, std::vector<double>& times) {
  for (std::uint64_t i = 0; i < shape.units; ++i) {
    const std::uint64_t unit = i * 97 % shape.units;
    const std::uint64_t page = unit * shape.unit_bytes / kPage + i % (shape.unit_bytes / kPage);
    const double from = now_us();
    const auto got = *static_cast<const volatile std::byte*>(memory + page * kPage);
    times.push_back(now_us() - from);
    if (static_cast<std::uint64_t>(got) != page % 250 + 1) die("the wrong bytes");
  }
}

// ---- The floor.
int bare_uffd(std::byte* memory, std::uint64_t bytes) {
  const int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
  uffdio_register all = {.range = {reinterpret_cast<std::uintptr_t>(memory), bytes},
                         .mode = UFFDIO_REGISTER_MODE_MISSING,
                         .ioctls = 0};
  if (fd < 0 || ::ioctl(fd, UFFDIO_API, &api) != 0 || ::ioctl(fd, UFFDIO_REGISTER, &all) != 0) {
    die("userfaultfd");
  }
  return fd;
}

struct BareImage {
  explicit BareImage(std::uint64_t size) : bytes(size) {
    memfd = ::memfd_create("floor", MFD_CLOEXEC);
    if (memfd < 0 || ::ftruncate(memfd, static_cast<off_t>(size)) != 0) die("memfd");
    memory = map(size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
    uffd = bare_uffd(memory, size);
  }
  ~BareImage() {
    ::munmap(memory, bytes);
    ::close(uffd);
    ::close(memfd);
  }
  void copy(std::uint64_t at, const std::byte* from, std::uint64_t count) const {
    uffdio_copy request = {.dst = reinterpret_cast<std::uintptr_t>(memory + at),
                           .src = reinterpret_cast<std::uintptr_t>(from),
                           .len = count,
                           .mode = UFFDIO_COPY_MODE_DONTWAKE,
                           .copy = 0};
    if (::ioctl(uffd, UFFDIO_COPY, &request) != 0) die("UFFDIO_COPY");
  }
  std::uint64_t bytes;
  int memfd, uffd;
  std::byte* memory;
};

void floor_faults(const Shape& shape, const std::vector<std::byte>& content,
                  std::vector<double>& times) {
  const BareImage image(shape.bytes());
  std::byte* const clone =
      map(shape.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, image.memfd);
  const int uffd = bare_uffd(clone, shape.bytes());
  std::thread server([&] {
    for (std::uint64_t i = 0; i < shape.units; ++i) {
      uffd_msg message;
      if (::read(uffd, &message, sizeof message) != sizeof message) die("read userfaultfd");
      const std::uint64_t at =
          (message.arg.pagefault.address - reinterpret_cast<std::uintptr_t>(clone)) /
          shape.unit_bytes * shape.unit_bytes;
      image.copy(at, content.data() + at, shape.unit_bytes);
      uffdio_range range = {reinterpret_cast<std::uintptr_t>(clone + at), shape.unit_bytes};
      if (::ioctl(uffd, UFFDIO_WAKE, &range) != 0) die("UFFDIO_WAKE");
    }
  });
  touch_all(clone, shape, times);
  server.join();
  ::munmap(clone, shape.bytes());
  ::close(uffd);
}

void floor_install(const Shape& shape, const std::vector<std::byte>& content,
                   std::vector<double>& times) {
  const BareImage image(shape.bytes());
  const std::uint64_t count = (shape.units + 2) / 3 * shape.unit_bytes;
  const double from = now_us();
  image.copy(0, content.data(), count);
  times.push_back(now_us() - from);
}

// The same pages as ours, where ours puts them: what scattering alone costs.
void floor_install_each(const Shape& shape, const std::vector<std::byte>& content,
                        std::vector<double>& times) {
  const BareImage image(shape.bytes());
  const double from = now_us();
  for (std::uint64_t unit = 0; unit < shape.units; unit += 3) {
    image.copy(unit * shape.unit_bytes, content.data() + unit * shape.unit_bytes, shape.unit_bytes);
  }
  times.push_back(now_us() - from);
}

// ---- Ours.
class MemorySource final : public uffd::PageSource {
 public:
  MemorySource(const Shape& shape, const std::vector<std::byte>& content)
      : shape_(shape), content_(content) {}
  void request(std::span<const uffd::UnitRange> units, uffd::Priority,
               uffd::UnitSink& done) override {
    for (const uffd::UnitRange& range : units) {
      for (std::uint64_t unit = range.first; unit < range.first + range.count; ++unit) {
        done.filled(unit, content_.subspan(unit * shape_.unit_bytes, shape_.unit_bytes));
      }
    }
  }

 private:
  Shape shape_;
  std::span<const std::byte> content_;
};

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "volt-fault-bench: %s\n", result.error().context.c_str());
    std::exit(result.error().code == Code::kHostUnable ? 6 : 1);
  }
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

std::unique_ptr<uffd::FaultServer> start(const Shape& shape,
                                         const std::vector<std::byte>& content) {
  return must(
      uffd::FaultServer::start(must(uffd::SharedImage::create(shape.bytes(), shape.unit_bytes)),
                               std::make_unique<MemorySource>(shape, content)));
}

void our_faults(const Shape& shape, const std::vector<std::byte>& content,
                std::vector<double>& times) {
  const auto server = start(shape, content);
  std::byte* const clone =
      map(shape.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, server->image_fd());
  uffd::Userfaultfd uffd = must(uffd::Userfaultfd::open());
  must(uffd.register_missing({clone, shape.bytes()}));
  const std::uint64_t id = must(server->attach(std::move(uffd), {{{clone, shape.bytes()}, 0}}));
  touch_all(clone, shape, times);
  if (server->counts().units_filled != shape.units) die("not every unit was filled");
  server->forget(id);
  ::munmap(clone, shape.bytes());
  server->detach(id);
}

void our_install(const Shape& shape, const std::vector<std::byte>& content,
                 std::vector<double>& times) {
  const auto server = start(shape, content);
  std::vector<uffd::UnitRange> hot;
  for (std::uint64_t unit = 0; unit < shape.units; unit += 3) hot.push_back({unit, 1});
  const double from = now_us();
  must(server->prefetch(hot));
  times.push_back(now_us() - from);
  if (server->counts().units_filled != hot.size()) die("not every unit was filled");
}

// ---- Rounds.
using Run = void (*)(const Shape&, const std::vector<std::byte>&, std::vector<double>&);

struct Medians {
  double ours, floor, floor_again;
};

Medians compare(Run ours, Run floor, const Shape& shape, unsigned long rounds) {
  const std::vector<std::byte> content = make_content(shape.bytes());
  std::vector<double> times[3];
  const Run runs[3] = {ours, floor, floor};
  for (unsigned long round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t turn = (i + round) % 3;
      runs[turn](shape, content, times[turn]);
    }
  }
  return {median(times[0]), median(times[1]), median(times[2])};
}

void print(const char* what, const Medians& got, bool json, bool last) {
  const double floor = (got.floor + got.floor_again) / 2;
  const char* const format =
      json ? "{\"what\": \"%s\", \"p50_us\": %.2f, \"floor_us\": %.2f, \"ratio\": %.3f, "
             "\"aa_ratio\": %.3f}%s\n"
           : "%-34s %10.2f %10.2f %8.3f %8.3f%s\n";
  std::printf(format, what, got.ours, floor, got.ours / floor, got.floor / got.floor_again,
              json && !last ? "," : "");
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  unsigned long rounds = 30;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json") {
      json = true;
    } else {
      rounds = std::max(std::strtoul(argv[i], nullptr, 10), 1ul);
    }
  }
  constexpr Shape kUnits = {.unit_bytes = 64 << 10, .units = 256};
  constexpr Shape kPages = {.unit_bytes = kPage, .units = 3'000};
  if (json) std::printf("[\n");
  if (!json) std::printf("%-34s %10s %10s %8s %8s\n", "medians", "us", "floor us", "ratio", "A/A");
  print("fault, 64 KiB units", compare(our_faults, floor_faults, kUnits, rounds), json, false);
  print("fault, 4 KiB units", compare(our_faults, floor_faults, kPages, rounds), json, false);
  print("hot set of 64 KiB, bulk", compare(our_install, floor_install, kUnits, 5 * rounds), json,
        false);
  print("hot set of 64 KiB, one by one",
        compare(our_install, floor_install_each, kUnits, 5 * rounds), json, false);
  print("hot set of 4 KiB, bulk", compare(our_install, floor_install, kPages, 5 * rounds), json,
        false);
  print("hot set of 4 KiB, one by one",
        compare(our_install, floor_install_each, kPages, 5 * rounds), json, true);
  if (json) std::printf("]\n");
  return 0;
}
