// Question: what does a clone cost whose memory a pager serves, beyond what it writes?
// Method: a 256 MiB kv guest of text-like memory, packed; one pager in a process of its own; 100
// clones, each in a process of its own, which reads all 64 MiB of its working set and writes 1 MiB
// of it, and stays until all are there. Counters: each unit is read and decoded once, however many
// clones. Private: smaps_rollup of a clone's whole process, less what it wrote. MemAvailable of the
// host, which knows page tables, KVM and the pager's part too: its fall per clone while they come,
// and its rise per clone when they go, less what they wrote; beside them its drift over the same
// time with nobody there, which is the noise: other programs' memory is in it. What the kernel
// itself uses (slabs, page tables of both kinds, vmalloc with stacks and KVM's slots, per-CPU) is
// told apart, for other programs disturb it less: with the private memory it makes the figure to
// trust. Medians of rounds; the image is filled before the first by one clone.
//   volt-clones-bench [--json] [ROUNDS [CLONES [MIB_OF_WORKING_SET]]]
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "bench/text_guest.h"
#include "snapshot/pager_images.h"
#include "snapshot/storage.h"

namespace {

using namespace volt;
using namespace volt::bench;

constexpr std::uint64_t kWrittenPages = 256;
constexpr double kWrittenKib = kWrittenPages * kPage / 1024.0;

// A part of the bench in a process of its own. It says one number when it has done its work, and
// stays until it is killed.
class Process {
 public:
  explicit Process(const std::function<double()>& work) {
    int ends[2];
    need(::pipe2(ends, O_CLOEXEC) == 0, "no pipe");
    output_ = Fd(ends[0]);
    const Fd input(ends[1]);
    pid_ = ::fork();
    need(pid_ >= 0, "no process");
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // In a thread of its own: a fork takes no timers along, and each thread makes its own.
    std::thread([&] {
      const double said = work();
      need(::write(input.get(), &said, sizeof said) == sizeof said, "nobody listens");
    }).join();
    for (;;) ::pause();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    kill();
    ::waitpid(pid_, nullptr, 0);
  }
  void kill() const { ::kill(pid_, SIGKILL); }
  double hear() const {
    double said = 0;
    need(::read(output_.get(), &said, sizeof said) == sizeof said, "a process of the bench failed");
    return said;
  }

 private:
  Fd output_;
  pid_t pid_ = -1;
};

// KiB of a "Name:  N kB" file whose names begin with one of these.
double sum_kib(const char* path, std::initializer_list<std::string_view> names) {
  std::ifstream file(path);
  std::uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    char name[64];
    std::uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "%63[^:]: %" SCNu64 " kB", name, &kib) != 2) continue;
    if (std::ranges::find(names, std::string_view(name)) != names.end()) sum += kib;
  }
  return static_cast<double>(sum);
}

struct HostMemory {
  double available, kernel;
};

HostMemory host_memory() {
  constexpr char kPath[] = "/proc/meminfo";
  return {sum_kib(kPath, {"MemAvailable"}),
          sum_kib(kPath, {"SUnreclaim", "PageTables", "SecPageTables", "VmallocUsed", "Percpu"})};
}

struct Bench {
  std::string path;
  snapshot::Store store;
  std::size_t clones;
  std::uint64_t pages;
  std::string socket() const { return path + "/pager"; }
};

double make_snapshot(const Bench& bench) {
  const vmm::Kvm kvm = must(vmm::Kvm::open());
  const std::uint64_t bytes = bench.pages * kPage;
  capture_text_guest(kvm, bench.store, "kv", std::max(4 * bytes, 16 * kMiB), bytes);
  must(snapshot::pack(bench.store, named("kv"), {}));
  return 0;
}

double serve(const Bench& bench) {
  // For as long as the process lives.
  auto* const images = new snapshot::PagerImages(bench.store, {.threads = 2});
  static_cast<void>(
      must(uffd::PagerService::start(
               {.path = bench.socket(),
                .open = [images](const std::string& name) { return images->open(name); },
                .stats = [images] { return images->stats(); },
                .may_poison = snapshot::pages_can_be_poisoned()}))
          .release());
  return 0;
}

// Its private memory beyond what it wrote, in KiB.
double be_a_clone(const Bench& bench) {
  const vmm::Kvm kvm = must(vmm::Kvm::open());
  snapshot::RestoreOptions options;
  options.pager = bench.socket();
  auto restored = must(snapshot::restore(kvm, snapshot::Store("/nowhere"), named("kv"), options));
  const std::uint64_t all[] = {0, bench.pages};
  const auto deadline = vmm::Deadline::in_ms(600'000);
  const vmm::Reply scan =
      must(snapshot::first_call(restored, call_of(guest_abi::Function::kScan, all), deadline, {}));
  need(scan.checksum == restored.sandbox->facts().guest.working_set_checksum(),
       "a clone has other memory than was captured");
  const std::uint64_t some[] = {0, kWrittenPages, 7};
  must(restored.sandbox->call(call_of(guest_abi::Function::kWrite, some), deadline, {}));
  static_cast<void>(restored.sandbox.release());  // it stays
  return sum_kib("/proc/self/smaps_rollup", {"Private_Clean", "Private_Dirty", "Private_Hugetlb"}) -
         kWrittenKib;
}

nlohmann::json image_of(const Bench& bench) {
  return nlohmann::json::parse(must(snapshot::pager_stats(bench.socket())))["images"][0];
}

void wait_ms(double ms) {
  ::poll(nullptr, 0, std::max(static_cast<int>(ms), 1));
}

void wait_until_alone(const Bench& bench) {
  while (image_of(bench)["clones"] != 0) wait_ms(5);
}

// Per clone, in KiB.
struct Figures {
  std::vector<double> own, fall, rise, kernel_fall, kernel_rise, drift, short_drift, kernel_drift;
};

void run_round(const Bench& bench, Figures& got) {
  const auto count = static_cast<double>(bench.clones);
  const auto fell = [&](double before, double after) { return (before - after) / count; };
  const double from = now_ms();
  const HostMemory before = host_memory();
  std::vector<std::unique_ptr<Process>> clones;
  for (std::size_t i = 0; i < bench.clones; ++i) {
    clones.push_back(std::make_unique<Process>([&] { return be_a_clone(bench); }));
    got.own.push_back(clones.back()->hear());
  }
  const HostMemory all_there = host_memory();
  const double came_ms = now_ms() - from;
  got.fall.push_back(fell(before.available, all_there.available) - kWrittenKib);
  got.kernel_fall.push_back(fell(all_there.kernel, before.kernel));
  const double going = now_ms();
  for (const auto& clone : clones) clone->kill();
  clones.clear();
  wait_until_alone(bench);
  const HostMemory alone = host_memory();
  const double gone_ms = now_ms() - going;
  got.rise.push_back(fell(alone.available, all_there.available) - kWrittenKib);
  got.kernel_rise.push_back(fell(all_there.kernel, alone.kernel));
  wait_ms(gone_ms);
  got.short_drift.push_back(std::abs(fell(alone.available, host_memory().available)));
  wait_ms(came_ms - gone_ms);
  const HostMemory later = host_memory();
  got.drift.push_back(std::abs(fell(alone.available, later.available)));
  got.kernel_drift.push_back(std::abs(fell(alone.kernel, later.kernel)));
}

void print(const Bench& bench, const Figures& got, std::uint64_t stored, bool json) {
  const nlohmann::json image = image_of(bench);
  const auto count = [&](const char* name) { return image[name].get<std::uint64_t>(); };
  std::printf(json ? "{\"clones\": %zu, \"stored_units\": %" PRIu64 ", \"units_read\": %" PRIu64
                     ", \"units_decoded\": %" PRIu64 ", \"units_wasted\": %" PRIu64
                     ", \"written_kib\": %.0f,\n"
                   : "%zu clones; %" PRIu64 " units stored, %" PRIu64 " read, %" PRIu64
                     " decoded, %" PRIu64 " wasted; each clone wrote %.0f KiB\n",
              bench.clones, stored, count("units_read"), count("units_decoded"),
              count("units_wasted"), kWrittenKib);
  std::printf(json ? " \"own_kib\": %.0f, \"own_kib_max\": %.0f, \"cost_kib\": %.0f, "
                     "\"available_fall_kib\": %.0f, \"available_rise_kib\": %.0f, "
                     "\"bar_kib\": 512,\n"
                   : "KiB per clone beyond that: private %.0f (most %.0f), with the kernel's part "
                     "%.0f; MemAvailable falls %.0f when they come, rises %.0f when they go "
                     "(bar 512)\n",
              median(got.own), *std::ranges::max_element(got.own),
              median(got.own) + median(got.kernel_fall), median(got.fall), median(got.rise));
  std::printf(json ? " \"kernel_kib\": %.0f, \"kernel_back_kib\": %.0f, \"drift_kib\": %.0f, "
                     "\"short_drift_kib\": %.0f, \"kernel_drift_kib\": %.0f}\n"
                   : "  of it the kernel's %.0f (%.0f come back); noise: MemAvailable drifts by "
                     "%.0f and %.0f in such times, the kernel's by %.0f\n",
              median(got.kernel_fall), median(got.kernel_rise), median(got.drift),
              median(got.short_drift), median(got.kernel_drift));
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json") json = true;
    if (std::string_view(argv[i]) != "--json") words.emplace_back(argv[i]);
  }
  const auto number = [&](std::size_t at, unsigned long otherwise) {
    return words.size() > at ? std::max(std::stoul(words[at]), 1ul) : otherwise;
  };
  must(snapshot::uffd_usable());
  must(vmm::Kvm::open());
  std::string path = "/var/tmp/volt-clones-bench-XXXXXX";
  need(::mkdtemp(path.data()) != nullptr, "no directory could be made");
  {
    const Bench bench = {.path = path,
                         .store = snapshot::Store(path + "/data"),
                         .clones = number(1, 100),
                         .pages = number(2, 64) * kMiB / kPage};
    // Not here: what this process has used, every clone's process begins with.
    static_cast<void>(Process([&] { return make_snapshot(bench); }).hear());
    const Process pager([&] { return serve(bench); });
    static_cast<void>(pager.hear());
    static_cast<void>(Process([&] { return be_a_clone(bench); }).hear());
    wait_until_alone(bench);
    Figures got;
    for (unsigned long round = 0; round < number(0, 5); ++round) run_round(bench, got);
    const auto opened = must(snapshot::OpenedSnapshot::open(bench.store, named("kv")));
    print(bench, got, opened.index().entry_count(), json);
  }
  std::filesystem::remove_all(path);
  return 0;
}
