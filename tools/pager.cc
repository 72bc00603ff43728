// volt pager: serves the memory of many VMs, each snapshot from one image.
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "snapshot/pager_images.h"
#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

constexpr Option kPagerOptions[] = {
    {"--socket", "PATH", "where VMs find it"},
    {"--threads", "N", "that answer faults, for each snapshot (2)"},
    {"--deadline", "SECONDS", "a page that takes longer is lost; 0: never (10)"},
    {"--snapshot", "REF", "what Firecracker VMs that connect are given"},
    {"--times", "", "time each fault; --stats then says how long they took"},
    {"--stats", "", "print the counters of the pager that is there, and end"},
};
constexpr std::uint64_t kMaxDeadlineSeconds = 3600;

// Two descriptors for each VM.
void raise_descriptor_limit() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
}

Result<int> print_stats(const Arguments& arguments, const std::string& path) {
  const std::string text = VOLT_TRY(snapshot::pager_stats(path));
  const auto stats = nlohmann::ordered_json::parse(text, nullptr, false);
  if (stats.is_discarded() || !stats.is_object() || !stats.contains("images")) {
    return fail(Code::kCorrupt, "pager at " + path + ": its counters are no JSON");
  }
  if (arguments.json()) {
    VOLT_TRY(print_json(stats));
    return 0;
  }
  std::string lines;
  for (const auto& image : stats["images"]) {
    std::string line;
    for (const auto& [key, value] : image.items()) {
      line += (line.empty() ? "" : "  ") + key + " " +
              (value.is_string() ? value.get<std::string>() : value.dump());
    }
    lines += line + "\n";
  }
  if (stats.contains("faults_us")) lines += "faults us  " + stats["faults_us"].dump() + "\n";
  VOLT_TRY(print_text(lines.empty() ? "no images\n" : lines));
  return 0;
}

void wait_for_stop() {
  const sigset_t stops = vmm::stop_signals();
  sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &stops, &before);
  while (!vmm::stop_requested()) ::ppoll(nullptr, 0, nullptr, &before);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Result<int> serve_pages(const Arguments& arguments) {
  const std::string path = arguments.get("--socket");
  if (path.empty()) return fail(Code::kInvalid, "--socket is missing: where VMs find the pager");
  if (arguments.has("--stats")) return print_stats(arguments, path);
  const std::uint64_t threads = VOLT_TRY(arguments.number("--threads", 2));
  if (threads == 0 || threads > 64) return fail(Code::kInvalid, "--threads: 1 to 64");
  const std::uint64_t deadline = VOLT_TRY(arguments.number("--deadline", 10));
  if (deadline > kMaxDeadlineSeconds) return fail(Code::kInvalid, "--deadline: at most 3600");
  const snapshot::Store store = VOLT_TRY(open_store());
  VOLT_TRY(snapshot::uffd_usable());
  raise_descriptor_limit();
  uffd::FaultOptions faults = {.threads = threads, .deadline_ms = deadline * 1000};
  if (arguments.has("--times")) faults.times = std::make_shared<uffd::FaultTimes>();
  snapshot::PagerImages images(store, faults);
  uffd::PagerService::Options options = {
      .path = path,
      .open = [&](const std::string& name) { return images.open(name); },
      .stats = [&] { return images.stats(); },
      .log = [](const std::string& line) { std::fprintf(stderr, "pager: %s\n", line.c_str()); },
      .may_poison = snapshot::pages_can_be_poisoned()};
  if (arguments.has("--snapshot")) {
    const std::string reference = arguments.get("--snapshot");
    VOLT_TRY(images.open(reference));  // what is wrong with it is said now
    options.firecracker_image = reference;
  }
  const auto service = VOLT_TRY(uffd::PagerService::start(std::move(options)));
  if (arguments.json()) {
    const nlohmann::ordered_json ready = {
        {"schema", "volt.pager/v1"}, {"socket", path}, {"pid", ::getpid()}, {"threads", threads}};
    VOLT_TRY(print_text(ready.dump() + "\n"));
  } else {
    VOLT_TRY(print_text("ready: " + path + "\n"));
  }
  wait_for_stop();
  return 0;
}

}  // namespace

const Command kPager = {
    .path = "pager",
    .operands = "",
    .summary = "serve the memory of many VMs, each snapshot from one image",
    .details =
        "VMs come with `volt call --pager PATH` or `volt snapshot restore --pager PATH`; they need "
        "no\n"
        "access to the store. With --snapshot, VMs of Firecracker may connect as well. It prints "
        "a\n"
        "line when it is ready, and ends on SIGTERM; VMs that still need pages then stop.\n",
    .example = "volt pager --socket /run/volt.sock",
    .options = kPagerOptions,
    .least = 0,
    .most = 0,
    .run = serve_pages};

}  // namespace volt::tools
