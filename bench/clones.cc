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
//
// The floor: the same of as many processes that run nothing of ours, in rounds that alternate
// with the product's. Each maps the same guest memory privately from one memfd, of which all pages
// are there (no userfaultfd, no pager), makes a VM with the slots of the product's clone, lets its
// vCPU answer the same two calls, and stays: volt_floor::stay(), raw ioctls in a process of one
// thread. Who gives such a guest a process, and pages of 4 KiB, pays that; the rest is ours.
//   volt-clones-bench [--json] [ROUNDS [CLONES [MIB_OF_WORKING_SET]]]
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>

#include "bench/child.h"
#include "bench/floor.h"
#include "bench/text_guest.h"
#include "snapshot/pager_images.h"
#include "snapshot/storage.h"

namespace {

using namespace volt;
using namespace volt::bench;

constexpr std::uint64_t kWrittenPages = 256;
constexpr double kWrittenKib = kWrittenPages * kPage / 1024.0;

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

// What the kernel uses itself.
constexpr std::array kKernelParts = {"PageTables", "SecPageTables", "SUnreclaim", "VmallocUsed",
                                     "Percpu"};

struct HostMemory {
  double available;
  std::array<double, kKernelParts.size()> parts;
  double kernel() const { return std::accumulate(parts.begin(), parts.end(), 0.0); }
};

HostMemory host_memory() {
  constexpr char kPath[] = "/proc/meminfo";
  HostMemory memory = {.available = sum_kib(kPath, {"MemAvailable"}), .parts = {}};
  for (std::size_t i = 0; i < kKernelParts.size(); ++i) {
    memory.parts[i] = sum_kib(kPath, {kKernelParts[i]});
  }
  return memory;
}

// What the product's first clone tells the floor's, through memory that all processes share.
struct Told {
  std::uint64_t ram_bytes, checksum;
  std::size_t slots;
  std::array<volt_floor::Slot, 4> slot;
};

struct Bench {
  std::string path;
  snapshot::Store store;
  std::size_t clones;
  std::uint64_t pages;
  Fd memory;  // the guest's, whole, for the floor
  Told* told;
  std::string socket() const { return path + "/pager"; }
};

// Every page of it, also those that are zero and in no file.
void fill_memory(const Bench& bench) {
  const auto raw = must(snapshot::OpenedSnapshot::open(bench.store, named("kv")));
  std::vector<std::byte> part(kMiB);
  bench.told->ram_bytes = raw.memory_bytes();
  for (std::uint64_t at = 0; at < raw.memory_bytes();) {
    const ssize_t bytes =
        ::pread(raw.memory().get(), part.data(), part.size(), static_cast<off_t>(at));
    need(bytes > 0, "the guest's memory cannot be read");
    need(::write(bench.memory.get(), part.data(), static_cast<std::size_t>(bytes)) == bytes,
         "the floor's memory cannot be written");
    at += static_cast<std::uint64_t>(bytes);
  }
}

// As the pager does with its image, so that smaps calls its pages private to no clone.
double hold_memory(const Bench& bench) {
  const void* const memory = ::mmap(nullptr, bench.told->ram_bytes, PROT_READ,
                                    MAP_SHARED | MAP_POPULATE, bench.memory.get(), 0);
  need(memory != MAP_FAILED, "the floor's memory cannot be mapped");
  return 0;
}

double make_snapshot(const Bench& bench) {
  const vmm::Kvm kvm = must(vmm::Kvm::open());
  const std::uint64_t bytes = bench.pages * kPage;
  capture_text_guest(kvm, bench.store, "kv", std::max(4 * bytes, 16 * kMiB), bytes);
  fill_memory(bench);
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

// This process's private memory beyond what it wrote, in KiB.
double own_kib() {
  return sum_kib("/proc/self/smaps_rollup", {"Private_Clean", "Private_Dirty", "Private_Hugetlb"}) -
         kWrittenKib;
}

void tell(const snapshot::Sandbox& sandbox, Told& told) {
  const auto& parts = sandbox.machine().ram().attached();
  need(parts.size() <= told.slot.size(), "a clone has more slots than the floor knows of");
  for (const auto& part : parts) {
    const std::uint64_t hole = part.guest_base < guest_abi::kLowRamEnd
                                   ? 0
                                   : guest_abi::kHighRamBase - guest_abi::kLowRamEnd;
    told.slot[told.slots++] = {part.guest_base, part.guest_base - hole, part.host.size()};
  }
  told.checksum = sandbox.facts().guest.working_set_checksum();
}

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
  if (bench.told->slots == 0) tell(*restored.sandbox, *bench.told);
  static_cast<void>(restored.sandbox.release());  // it stays
  return own_kib();
}

volt_floor::Request request_of(guest_abi::Function function, std::span<const std::uint64_t> words) {
  return {.function = static_cast<std::uint32_t>(function), .arguments = std::as_bytes(words)};
}

double be_a_floor(const Bench& bench) {
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  const Told& told = *bench.told;
  const std::string memory = "/proc/self/fd/" + std::to_string(bench.memory.get());
  const std::uint64_t all[] = {0, bench.pages};
  const std::uint64_t some[] = {0, kWrittenPages, 7};
  const volt_floor::Request requests[] = {request_of(guest_abi::Function::kScan, all),
                                          request_of(guest_abi::Function::kWrite, some)};
  const std::vector<std::uint64_t> answers = volt_floor::stay(
      kvm.get(), memory.c_str(), told.ram_bytes, std::span(told.slot).first(told.slots), requests);
  need(answers[0] == told.checksum, "the floor's guest has other memory than was captured");
  const double own = own_kib();
  need(own >= 0, "the floor's guest wrote less than it was told to");
  return own;
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
  std::array<std::vector<double>, kKernelParts.size()> parts;
  double cost() const { return median(own) + median(kernel_fall); }
};

void run_round(const Bench& bench, const std::function<std::unique_ptr<Child>()>& start,
               Figures& got) {
  const auto count = static_cast<double>(bench.clones);
  const auto fell = [&](double before, double after) { return (before - after) / count; };
  const double from = now_ms();
  const HostMemory before = host_memory();
  std::vector<std::unique_ptr<Child>> clones;
  for (std::size_t i = 0; i < bench.clones; ++i) {
    clones.push_back(start());
    got.own.push_back(clones.back()->hear());
  }
  const HostMemory all_there = host_memory();
  const double came_ms = now_ms() - from;
  got.fall.push_back(fell(before.available, all_there.available) - kWrittenKib);
  got.kernel_fall.push_back(fell(all_there.kernel(), before.kernel()));
  for (std::size_t i = 0; i < got.parts.size(); ++i) {
    got.parts[i].push_back(fell(all_there.parts[i], before.parts[i]));
  }
  const double going = now_ms();
  for (const auto& clone : clones) clone->kill();
  clones.clear();
  wait_until_alone(bench);
  const HostMemory alone = host_memory();
  const double gone_ms = now_ms() - going;
  got.rise.push_back(fell(alone.available, all_there.available) - kWrittenKib);
  got.kernel_rise.push_back(fell(all_there.kernel(), alone.kernel()));
  wait_ms(gone_ms);
  got.short_drift.push_back(std::abs(fell(alone.available, host_memory().available)));
  wait_ms(came_ms - gone_ms);
  const HostMemory later = host_memory();
  got.drift.push_back(std::abs(fell(alone.available, later.available)));
  got.kernel_drift.push_back(std::abs(fell(alone.kernel(), later.kernel())));
}

struct Sides {
  Figures product, floor;
};

// Each goes first every other time.
Sides run_rounds(const Bench& bench, unsigned long rounds) {
  Sides got;
  const auto product = [&] { return std::make_unique<Child>([&] { return be_a_clone(bench); }); };
  const auto floor = [&] {
    return std::make_unique<Child>([&] { return be_a_floor(bench); }, Child::In::kMain);
  };
  for (unsigned long round = 0; round < rounds; ++round) {
    if (round % 2 == 0) run_round(bench, product, got.product);
    run_round(bench, floor, got.floor);
    if (round % 2 == 1) run_round(bench, product, got.product);
  }
  return got;
}

nlohmann::ordered_json document_of(const Figures& got) {
  nlohmann::ordered_json parts;
  for (std::size_t i = 0; i < kKernelParts.size(); ++i) {
    parts[kKernelParts[i]] = std::round(median(got.parts[i]));
  }
  return {{"own_kib", std::round(median(got.own))},
          {"own_kib_max", *std::ranges::max_element(got.own)},
          {"cost_kib", std::round(got.cost())},
          {"available_fall_kib", std::round(median(got.fall))},
          {"available_rise_kib", std::round(median(got.rise))},
          {"kernel_kib", std::round(median(got.kernel_fall))},
          {"kernel_parts_kib", parts},
          {"kernel_back_kib", std::round(median(got.kernel_rise))},
          {"drift_kib", std::round(median(got.drift))},
          {"short_drift_kib", std::round(median(got.short_drift))},
          {"kernel_drift_kib", std::round(median(got.kernel_drift))}};
}

nlohmann::ordered_json document_of(const Bench& bench, const Sides& got, std::uint64_t stored) {
  const nlohmann::json image = image_of(bench);
  nlohmann::ordered_json all = {{"clones", bench.clones},
                                {"stored_units", stored},
                                {"units_read", image["units_read"]},
                                {"units_decoded", image["units_decoded"]},
                                {"units_wasted", image["units_wasted"]},
                                {"written_kib", kWrittenKib},
                                {"bar_kib", 512}};
  all.update(document_of(got.product));
  all["floor"] = document_of(got.floor);
  nlohmann::ordered_json& beyond = all["beyond_floor"];
  for (const char* name : {"own_kib", "kernel_kib", "cost_kib"}) {
    beyond[name] = all[name].get<double>() - all["floor"][name].get<double>();
  }
  return all;
}

void print_side(const char* name, const nlohmann::ordered_json& side) {
  const auto kib = [&](const char* which) { return side[which].get<double>(); };
  std::printf(
      "%s: private %.0f (most %.0f), with the kernel's part %.0f; MemAvailable falls %.0f "
      "when they come, rises %.0f when they go\n",
      name, kib("own_kib"), kib("own_kib_max"), kib("cost_kib"), kib("available_fall_kib"),
      kib("available_rise_kib"));
  std::printf("  of it the kernel's %.0f (%.0f come back):", kib("kernel_kib"),
              kib("kernel_back_kib"));
  for (const auto& [part, value] : side["kernel_parts_kib"].items()) {
    std::printf(" %s %.0f", part.c_str(), value.get<double>());
  }
  std::printf(
      "\n  noise: MemAvailable drifts by %.0f and %.0f in such times, the kernel's by "
      "%.0f\n",
      kib("drift_kib"), kib("short_drift_kib"), kib("kernel_drift_kib"));
}

void print(const nlohmann::ordered_json& all) {
  const auto count = [&](const char* name) { return all[name].get<std::uint64_t>(); };
  std::printf("%" PRIu64 " clones; %" PRIu64 " units stored, %" PRIu64 " read, %" PRIu64
              " decoded, %" PRIu64
              " wasted; each clone wrote %.0f KiB\nKiB per clone beyond that "
              "(bar %" PRIu64 "):\n",
              count("clones"), count("stored_units"), count("units_read"), count("units_decoded"),
              count("units_wasted"), kWrittenKib, count("bar_kib"));
  print_side("product", all);
  print_side("floor", all["floor"]);
  const auto beyond = [&](const char* name) { return all["beyond_floor"][name].get<double>(); };
  std::printf("product less floor: private %.0f, the kernel's %.0f, both %.0f\n", beyond("own_kib"),
              beyond("kernel_kib"), beyond("cost_kib"));
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
  Child::end_all_at_exit();
  must(snapshot::uffd_usable());
  must(vmm::Kvm::open());
  std::string path = "/var/tmp/volt-clones-bench-XXXXXX";
  need(::mkdtemp(path.data()) != nullptr, "no directory could be made");
  void* const shared =
      ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  need(shared != MAP_FAILED, "no memory");
  {
    const Bench bench = {.path = path,
                         .store = snapshot::Store(path + "/data"),
                         .clones = number(1, 100),
                         .pages = number(2, 64) * kMiB / kPage,
                         .memory = Fd(::memfd_create("volt-floor", MFD_CLOEXEC)),
                         .told = static_cast<Told*>(shared)};
    need(bench.memory.valid(), "no memfd");
    // Not here: what this process has used, every clone's process begins with.
    static_cast<void>(Child([&] { return make_snapshot(bench); }).hear());
    const Child holder([&] { return hold_memory(bench); });
    static_cast<void>(holder.hear());
    const Child pager([&] { return serve(bench); });
    static_cast<void>(pager.hear());
    static_cast<void>(Child([&] { return be_a_clone(bench); }).hear());
    wait_until_alone(bench);
    const Sides got = run_rounds(bench, number(0, 5));
    const auto opened = must(snapshot::OpenedSnapshot::open(bench.store, named("kv")));
    const auto document = document_of(bench, got, opened.index().entry_count());
    if (json) std::printf("%s\n", document.dump(2).c_str());
    if (!json) print(document);
  }
  std::filesystem::remove_all(path);
  return 0;
}
