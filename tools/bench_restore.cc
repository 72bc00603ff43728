// volt bench restore: restores beside the floor, interleaved in one process, and their ratio.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/floor.h"
#include "snapshot/pager_images.h"
#include "snapshot/restore.h"
#include "snapshot/storage.h"
#include "tools/bench_pager.h"
#include "tools/bench_report.h"
#include "tools/bench_scratch.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/guest_call.h"
#include "tools/output.h"
#include "tools/restore_report.h"
#include "tools/working_set_sum.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

constexpr Option kBenchRestoreOptions[] = {
    {"-n", "N", "how many of each (200)"},
    {"--ref", "REF", "measure this snapshot instead of one made for the purpose"},
    kLoaderOption,
    kMemoryOption,
    kWorkingSetOption,
    {"--touch", "PAGES", "pages the first call writes (1)"},
    {"--store", "raw|packed", "how its memory is stored, without --ref (raw)"},
    {"--pager", "", "let a pager in another process serve them, made for this bench"},
    {"--hotset", "use|off", "record a hot set first, then replay it (off)"},
    {"--cache", "warm|cold", "cold: drop its files from the page cache before each restore (warm)"},
    {"--verify", "", "after each restore, untimed: scan the whole working set"},
    kTimeoutOption,
};
constexpr std::uint64_t kMaxRuns = 1'000'000;
constexpr std::uint64_t kMaxTouch = 100'000;

// Spread over the working set, each page once.
std::vector<std::uint64_t> spread(std::uint64_t count, std::uint64_t pages) {
  std::vector<std::uint64_t> chosen;
  for (std::uint64_t i = 0; i < count; ++i) chosen.push_back(i * pages / count);
  return chosen;
}

// What a pager in another process cannot do.
Result<> check_pager(const BenchPlan& plan) {
  const snapshot::Loader loader = plan.options.loader;
  if (loader != snapshot::Loader::kAuto && loader != snapshot::Loader::kUffd) {
    return fail(Code::kInvalid, std::string("--pager: it serves loader uffd, not ") +
                                    snapshot::loader_name(loader));
  }
  if (plan.options.hot_set != snapshot::HotSetMode::kOff) {
    return fail(Code::kInvalid, "--pager: it replays no hot set");
  }
  if (plan.cold) {
    return fail(Code::kInvalid,
                "--pager: its image stays in memory; --cache cold would drop only the files");
  }
  return snapshot::uffd_usable();
}

// What the options say by themselves, before anything is booted for them.
Result<BenchPlan> parse_plan(const Arguments& arguments) {
  BenchPlan plan;
  plan.runs = VOLT_TRY(arguments.number("-n", 200));
  plan.options.loader = VOLT_TRY(snapshot::parse_loader(arguments.get("--loader", "auto")));
  plan.touched = VOLT_TRY(arguments.number("--touch", 1));
  plan.options.hot_set = VOLT_TRY(hot_set_mode(arguments, "off"));
  const std::string cache = arguments.get("--cache", "warm");
  plan.cold = cache == "cold";
  if (!plan.cold && cache != "warm") return fail(Code::kInvalid, "--cache: warm or cold");
  if (plan.options.hot_set == snapshot::HotSetMode::kRecord) {
    return fail(Code::kInvalid, "--hotset: use or off");
  }
  plan.pager = arguments.has("--pager");
  if (plan.pager) VOLT_TRY(check_pager(plan));
  plan.options.faults.times = std::make_shared<uffd::FaultTimes>();
  VOLT_TRY(deadline_of(arguments));
  if (plan.runs == 0 || plan.runs > kMaxRuns) return fail(Code::kInvalid, "-n: 1 to 1000000");
  if (plan.touched > kMaxTouch) return fail(Code::kInvalid, "--touch: at most 100000");
  if (!arguments.has("--ref")) {
    VOLT_TRY(boot_request(arguments));
    return plan;
  }
  for (const char* option : {"--memory", "--working-set", "--store"}) {
    if (arguments.has(option)) {
      return fail(Code::kInvalid,
                  std::string(option) + " is fixed by the snapshot that --ref names");
    }
  }
  return plan;
}

Result<> complete_plan(BenchPlan& plan, const Arguments& arguments, const snapshot::Store& store,
                       const snapshot::Reference& reference) {
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(store, reference));
  plan.reference_text = reference.text();
  plan.guest = opened.manifest().guest();
  plan.ram_bytes = opened.memory_bytes();
  plan.stored_bytes = opened.manifest().memory().stored_bytes();
  plan.boot_us = opened.manifest().boot_us();
  if (plan.memory_file.empty()) {
    if (!opened.is_raw()) {
      return fail(Code::kConflict, "--ref: its memory is packed, and the floor needs it raw");
    }
    plan.memory_file = store.path() + "/snapshots/" + formats::to_hex(opened.digest()) + "/" +
                       snapshot::kMemoryFile;
  }
  const std::uint64_t pages = plan.guest.working_set_bytes() / guest_abi::kPageBytes;
  if (plan.touched > pages) {
    return fail(Code::kInvalid, "--touch: the working set has " + std::to_string(pages) + " pages");
  }
  if (plan.guest.calls_size() != 0) {
    return fail(Code::kInvalid,
                "--ref: a snapshot made with --after cannot be checked by its seed");
  }
  plan.pages = spread(plan.touched, pages);
  plan.touch = make_call(guest_abi::Function::kTouch, plan.pages);
  plan.touch_sum = touch_sum(plan.guest.seed(), plan.pages);
  if (arguments.has("--verify")) {
    plan.scan_sum = seeded_sum(plan.guest.seed(), pages, plan.pages);
  }
  return {};
}

// The slots that the product gave its clone, for the floor to do the same.
std::vector<volt_floor::Slot> slots_of(const snapshot::Sandbox& sandbox) {
  std::vector<volt_floor::Slot> slots;
  for (const auto& part : sandbox.machine().ram().attached()) {
    const std::uint64_t hole = part.guest_base < guest_abi::kLowRamEnd
                                   ? 0
                                   : guest_abi::kHighRamBase - guest_abi::kLowRamEnd;
    slots.push_back({part.guest_base, part.guest_base - hole, part.host.size()});
  }
  return slots;
}

// The floor's steps under the name of the phase that does the same.
const char* phase_of(std::string_view step) {
  if (step == "map memory") return "memory";
  if (step == "memory slots") return "slots";
  if (step == "state") return "state";
  if (step == "run") return "first_exit";
  return "vm";
}

// The floor knows no signals: they wait until it is done.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t all;  // a deadline that was left to fire, too
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;
  ~SignalsHeld() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

Result<> run_floor(const Fd& kvm, const BenchPlan& plan, BenchReport& report) {
  const SignalsHeld held;
  const volt_floor::Timing timing =
      volt_floor::fresh(kvm.get(), plan.memory_file.c_str(), plan.ram_bytes, report.slots,
                        {.function = static_cast<std::uint32_t>(plan.touch.function),
                         .arguments = plan.touch.arguments});
  if (timing.checksum != plan.touch_sum) {
    return fail(Code::kCorrupt, "the floor's guest answered another checksum than its seed gives");
  }
  report.floor.add(timing.total_ns);
  report.floor_slots.add(timing.slots_ns);
  std::map<std::string, std::uint64_t> by_phase;
  for (const volt_floor::Step& step : timing.steps) by_phase[phase_of(step.name)] += step.ns;
  for (const auto& [phase, ns] : by_phase) report.floor_steps[phase].add(ns);
  return {};
}

// So that the next restore reads its files from the disk. Synced files only: dirty pages stay.
Result<> drop_cache(const snapshot::Store& store, const snapshot::Reference& reference,
                    const BenchPlan& plan) {
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(store, reference));
  const auto drop = [](int fd) { ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); };
  if (opened.is_raw()) drop(opened.memory().get());
  for (const auto& container : opened.containers()) drop(container.file.get());
  const Fd raw = VOLT_TRY(open_at(AT_FDCWD, plan.memory_file.c_str(), O_RDONLY));
  drop(raw.get());
  return {};
}

// What the product touches, once, before anything is measured.
Result<> record_hot_set(const Arguments& arguments, const vmm::Kvm& kvm,
                        const snapshot::Store& store, const BenchPlan& plan) {
  snapshot::RestoreOptions options = plan.options;
  options.hot_set = snapshot::HotSetMode::kRecord;
  options.faults.times = nullptr;
  const auto reference = VOLT_TRY(snapshot::Reference::parse(plan.reference_text));
  snapshot::Restored restored = VOLT_TRY(snapshot::restore(kvm, store, reference, options));
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  VOLT_TRY(snapshot::first_call(restored, plan.touch, deadline, vmm::HostServices{}));
  VOLT_TRY(keep_recording(store, restored, snapshot::HotSetMode::kRecord));
  const bool packed_by_us =
      !arguments.has("--ref") && !restored.sandbox->origin().snapshot->is_raw();
  if (packed_by_us) VOLT_TRY(snapshot::relayout(store, reference, {}));
  return {};
}

Result<> run_product(const vmm::Kvm& kvm, const snapshot::Store& store, const BenchPlan& plan,
                     vmm::Deadline deadline, BenchReport& report) {
  const vmm::HostServices services;
  const auto reference = VOLT_TRY(snapshot::Reference::parse(plan.reference_text));
  if (plan.cold) VOLT_TRY(drop_cache(store, reference, plan));
  snapshot::Restored restored = VOLT_TRY(snapshot::restore(kvm, store, reference, plan.options));
  const vmm::Reply reply = VOLT_TRY(snapshot::first_call(restored, plan.touch, deadline, services));
  report.restore.add(restored.phases.total_ns());
  report.restore_slots.add(restored.phases.slots_ns);
  report.phases.add(restored.phases);
  report.loader = restored.loader;
  if (plan.options.hot_set != snapshot::HotSetMode::kOff) {
    report.hot_set = hot_set_json(restored);
  }
  report.served = served_of(*restored.sandbox);
  if (report.slots.empty()) report.slots = slots_of(*restored.sandbox);
  bool right = reply.checksum == plan.touch_sum;
  if (right && plan.scan_sum) {
    const std::uint64_t words[] = {0, plan.guest.working_set_bytes() / guest_abi::kPageBytes};
    const vmm::Reply scan = VOLT_TRY(
        restored.sandbox->call(make_call(guest_abi::Function::kScan, words), deadline, services));
    right = scan.checksum == *plan.scan_sum;
  }
  if (right) ++report.verified;
  return {};
}

// What clones were served by, and how long a fault took them.
Result<> look_at_faults(const BenchPlan& plan, const std::optional<BenchPager>& pager,
                        BenchReport& report) {
  if (pager) {
    const nlohmann::ordered_json stats = VOLT_TRY(pager->stats());
    report.pager = stats["images"].empty() ? nullptr : stats["images"][0];
    report.faults_us = stats.value("faults_us", nlohmann::ordered_json());
  } else if (report.served) {
    const std::string times = snapshot::times_document(*plan.options.faults.times);
    report.faults_us = nlohmann::ordered_json::parse(times);
  }
  return {};
}

Result<BenchReport> measure(const Arguments& arguments, const vmm::Kvm& kvm,
                            const snapshot::Store& store, BenchPlan& plan) {
  BenchReport report;
  std::optional<BenchPager> pager;
  if (plan.pager) {
    pager.emplace(VOLT_TRY(BenchPager::start(store.path())));
    plan.options.pager = pager->socket();
  }
  if (plan.options.hot_set == snapshot::HotSetMode::kUse) {
    progress("recording a hot set ...");
    VOLT_TRY(record_hot_set(arguments, kvm, store, plan));
  }
  const Fd floor_kvm{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
  if (!floor_kvm.valid()) return sys_error("open", "/dev/kvm");
  for (std::uint64_t i = 0; i < plan.runs; ++i) {
    VOLT_TRY(vmm::check_stop());
    const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
    // Each goes first every other time, so that neither profits from the other's wake.
    if (i % 2 == 1) VOLT_TRY(run_floor(floor_kvm, plan, report));
    VOLT_TRY(run_product(kvm, store, plan, deadline, report));
    if (i % 2 == 0) VOLT_TRY(run_floor(floor_kvm, plan, report));
    if ((i + 1) % 50 == 0 && i + 1 < plan.runs) {
      progress(std::to_string(i + 1) + " of " + std::to_string(plan.runs) + " restored");
    }
  }
  VOLT_TRY(look_at_faults(plan, pager, report));
  return report;
}

Result<int> report_on(const Arguments& arguments, const vmm::Kvm& kvm, const snapshot::Store& store,
                      const snapshot::Reference& reference, BenchPlan plan) {
  VOLT_TRY(complete_plan(plan, arguments, store, reference));
  const BenchReport report = VOLT_TRY(measure(arguments, kvm, store, plan));
  if (report.verified != plan.runs) {
    return fail(Code::kCorrupt, std::to_string(plan.runs - report.verified) +
                                    " clones answered another checksum than the seed gives");
  }
  VOLT_TRY(arguments.json() ? print_json(json_of(plan, report))
                            : print_text(text_of(plan, report)));
  return 0;
}

Result<int> bench_restores(const Arguments& arguments) {
  BenchPlan plan = VOLT_TRY(parse_plan(arguments));
  const vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  if (arguments.has("--ref")) {
    const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.get("--ref")));
    const snapshot::Store store = VOLT_TRY(open_store());
    return report_on(arguments, kvm, store, reference, std::move(plan));
  }
  const BenchScratch scratch = VOLT_TRY(BenchScratch::make(arguments, kvm));
  plan.memory_file = scratch.raw_memory();
  return report_on(arguments, kvm, scratch.store(), BenchScratch::reference(), std::move(plan));
}

}  // namespace

const Command kBenchRestore = {
    .path = "bench restore",
    .operands = "",
    .summary = "measure restores beside the least a program can do",
    .details =
        "Interleaves full restores, each from the reference text on, with the floor program doing\n"
        "the same with raw system calls, in one process. The ratio is what is promised; absolute\n"
        "times are this machine's. Makes and removes a snapshot of its own unless --ref is given.\n"
        "With --pager a `volt pager` of its own, in another process, serves every clone from one\n"
        "image, which the first one fills. What is served page by page (loader uffd) is reported\n"
        "with counters and with the time of a fault, from the read of its message to its wake.\n",
    .example = "volt bench restore -n 300 --loader map --memory 256M --touch 64 --json",
    .options = kBenchRestoreOptions,
    .least = 0,
    .most = 0,
    .run = bench_restores};

}  // namespace volt::tools
