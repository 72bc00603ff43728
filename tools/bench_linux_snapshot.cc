#include "tools/bench_linux_snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "snapshot/linux_guest.h"
#include "snapshot/storage.h"
#include "tools/balloon.h"
#include "tools/bench_banner.h"
#include "tools/context.h"
#include "tools/output.h"
#include "vmm/identity.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

// A guest that was captured, and is still.
struct TwoCaptures {
  std::uint64_t freeze_ns = 0;
  snapshot::Captured raw, packed;
};

std::uint64_t capture_ns(const snapshot::Captured& captured) {
  return captured.state_ns + captured.memory_ns + captured.publish_ns;
}

// The guest is frozen once and captured twice, which changes nothing of it.
Result<TwoCaptures> capture_both(const LinuxBench& bench, snapshot::Sandbox& sandbox,
                                 const LinuxScratch& scratch,
                                 const snapshot::Reference& reference) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  TwoCaptures both;
  const std::uint64_t begun_ns = vmm::monotonic_clock_ns();
  both.raw = VOLT_TRY(
      snapshot::capture_linux(bench.kvm, sandbox, scratch.store(false), reference, {}, deadline));
  both.freeze_ns = vmm::monotonic_clock_ns() - begun_ns - capture_ns(both.raw);
  both.packed = VOLT_TRY(
      snapshot::capture(bench.kvm, sandbox, scratch.store(true), reference,
                        {.labels = {}, .storage = snapshot::Storage::kPacked, .pack = {}}));
  return both;
}

struct Ran {
  snapshot::Restored restored;
  CommandTimes times;
};

Result<Ran> restore_and_run(const LinuxBench& bench, const snapshot::Store& store,
                            snapshot::HotSetMode hot_set) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  snapshot::RestoreOptions options = {.hot_set = hot_set};
  options.linux_guest.emplace();
  snapshot::Restored restored =
      VOLT_TRY(snapshot::restore(bench.kvm, store, LinuxScratch::reference(), options));
  static_cast<void>(VOLT_TRY(snapshot::resume_linux(restored, "", deadline)));
  snapshot::Sandbox& sandbox = *restored.sandbox;
  const Result<CommandTimes> times = run_command(bench, *sandbox.linux_machine(), deadline);
  if (!times) return std::unexpected(sandbox.explained(times.error()));
  return Ran{std::move(restored), *times};
}

Result<std::uint64_t> record_hot_set_of(const LinuxBench& bench, const snapshot::Store& store) {
  Ran ran = VOLT_TRY(restore_and_run(bench, store, snapshot::HotSetMode::kRecord));
  VOLT_TRY(keep_recording(store, ran.restored, snapshot::HotSetMode::kRecord));
  return ran.restored.hot_set.set.pages.size();
}

Result<> fill(LinuxBench& bench, const LinuxScratch& scratch) {
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(bench.arguments));
  const LinuxRequest request = VOLT_TRY(linux_request(bench.arguments, true));
  pc::LinuxBoot boot = VOLT_TRY(boot_linux(bench.kvm, request, deadline));
  bench.report.kernel_version = boot.kernel_version;
  // As `volt snapshot create` does, so that what is measured is what users get.
  VOLT_TRY(wait_for_freed_pages(bench.arguments, *boot.machine, deadline));
  const auto sandbox = snapshot::linux_sandbox(std::move(boot), request.kernel.bytes());
  const TwoCaptures both =
      VOLT_TRY(capture_both(bench, *sandbox, scratch, LinuxScratch::reference()));
  bench.report.apparent_bytes = both.raw.apparent_bytes;
  bench.report.raw_bytes = both.raw.stored_bytes;
  bench.report.packed_bytes = both.packed.stored_bytes;
  return {};
}

}  // namespace

Result<LinuxScratch> LinuxScratch::make(LinuxBench& bench) {
  const char* base = std::getenv("TMPDIR");
  std::string path = std::string(base == nullptr ? "/tmp" : base) + "/volt-bench-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return sys_error("mkdtemp", path);
  LinuxScratch scratch(path);
  const std::vector<std::byte> initrd = VOLT_TRY(tools::banner_initrd());
  const Fd file = VOLT_TRY(
      open_at(AT_FDCWD, scratch.banner_initrd().c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
  VOLT_TRY(write_all(file, initrd, 0, scratch.banner_initrd()));
  progress("making snapshots to measure ...");
  VOLT_TRY(fill(bench, scratch));
  bench.report.touched_pages = VOLT_TRY(record_hot_set_of(bench, scratch.store(false)));
  static_cast<void>(VOLT_TRY(record_hot_set_of(bench, scratch.store(true))));
  VOLT_TRY(snapshot::relayout(scratch.store(true), reference(), {}));
  return scratch;
}

LinuxScratch::~LinuxScratch() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Result<> measure_cold_boot_and_capture(LinuxBench& bench, const LinuxScratch& scratch) {
  TimedBoot booted = VOLT_TRY(boot_timed(bench, PageCache::kCold));
  const auto sandbox =
      snapshot::linux_sandbox(std::move(booted.boot), booted.request.kernel.bytes());
  const snapshot::Reference round = {"round", "latest", std::nullopt};
  const TwoCaptures both = VOLT_TRY(capture_both(bench, *sandbox, scratch, round));
  for (const bool packed : {false, true}) VOLT_TRY(scratch.store(packed).remove(round));
  LinuxSamples& lines = bench.report.lines;
  lines[LinuxLine::kFreeze].add(both.freeze_ns);
  lines[LinuxLine::kCaptureRaw].add(capture_ns(both.raw));
  lines[LinuxLine::kCapturePacked].add(capture_ns(both.packed));
  lines[LinuxLine::kPauseRaw].add(both.freeze_ns + capture_ns(both.raw));
  lines[LinuxLine::kPausePacked].add(both.freeze_ns + capture_ns(both.packed));
  return {};
}

Result<> measure_restore(LinuxBench& bench, const LinuxScratch& scratch, std::size_t way) {
  const RestoreWay& asked = kRestoreWays[way];
  const snapshot::Store store = scratch.store(asked.packed);
  const auto mode = asked.hot ? snapshot::HotSetMode::kUse : snapshot::HotSetMode::kOff;
  // Not counted: the first one after boots pays for what they drove out of the caches, whichever
  // way it is.
  static_cast<void>(VOLT_TRY(restore_and_run(bench, store, mode)));
  const std::uint64_t begun_ns = vmm::monotonic_clock_ns();
  const Ran ran = VOLT_TRY(restore_and_run(bench, store, mode));
  bench.report.lines[asked.in_process].add(ran.times.first_byte_ns - begun_ns);
  RestoreWayReport& found = bench.report.ways[way];
  found.phases.add(ran.restored.phases);
  found.loader = ran.restored.loader;
  found.hot_set = hot_set_json(ran.restored);
  return {};
}

}  // namespace volt::tools
