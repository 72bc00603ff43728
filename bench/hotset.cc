// Question: how far is a cold restore with a hot set from what the disk and the touches cost by
// themselves, what does it save, and what does a hot set cost and save under loader map, warm?
// Method, cold: a kv guest of text-like memory, packed; 64 MiB of it (scattered blocks of a unit)
// are touched page by page in random order by one call, which writes them; its hot set is recorded
// from that call. Timed by wall clock: restore (loader uffd) and the call, after all files of the
// snapshot were dropped from the page cache. Floors: (disk) one direct sequential read of the same
// units as stored, from a file that has only them, one behind the other, then zstd alone on one
// thread, into memory that is there; (memory) restore and the same call where a pager of this
// process has all of them in its image already. `without`: the same restore without the hot set,
// from the same packs. Queue depth 12 of 16 for prefetches, 64 KiB units.
// Method, warm: a raw 256 MiB guest, loader map; restore and a call that writes 1,024 pages, with
// its hot set and without; the same with a hot set and a call of one page.
// Runs are interleaved, each goes first in turn; one of each pair runs twice, its ratio with itself
// is the noise. Not timed: closing a VM.
//   volt-hotset-bench [--json] [ROUNDS [MIB_OF_WORKING_SET [MIB_TOUCHED [DIRECTORY]]]]
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>
#include <functional>
#include <string_view>

#include "bench/text_guest.h"
#include "snapshot/hot_set.h"
#include "snapshot/pager_images.h"
#include "snapshot/storage.h"
#include "snapshot/unit_reader.h"
#include "vmm/os/file.h"

namespace {

using namespace volt;
using namespace volt::bench;
using snapshot::HotSetMode;

constexpr std::uint64_t kUnit = formats::kDefaultUnitBytes;
constexpr std::uint64_t kPagesPerUnit = kUnit / kPage;

// What is touched, and what the guest must answer.
struct Touches {
  std::vector<std::uint64_t> pages;
  vmm::Call call;
  std::uint64_t sum = 0;
};

Touches touches_of(const TextGuest& guest, std::vector<std::uint64_t> pages) {
  guest_abi::Checksum sum;
  for (const std::uint64_t page : pages) sum.add(guest.first_words[page]);
  vmm::Call call = call_of(guest_abi::Function::kTouch, pages);
  return {std::move(pages), std::move(call), sum.value()};
}

// Whole units, scattered over the working set; their pages in random order.
std::vector<std::uint64_t> scattered(const TextGuest& guest, std::uint64_t bytes) {
  std::mt19937_64 random(7);
  const std::uint64_t before = (kUnit - guest.base % kUnit) % kUnit / kPage;
  std::vector<std::uint64_t> units((guest.first_words.size() - before) / kPagesPerUnit);
  for (std::uint64_t i = 0; i < units.size(); ++i) units[i] = before + i * kPagesPerUnit;
  std::ranges::shuffle(units, random);
  units.resize(std::min<std::size_t>(units.size(), bytes / kUnit));
  std::vector<std::uint64_t> pages;
  for (const std::uint64_t first : units) {
    for (std::uint64_t i = 0; i < kPagesPerUnit; ++i) pages.push_back(first + i);
  }
  std::ranges::shuffle(pages, random);
  return pages;
}

// The stored bytes of the touched units, one behind the other, and what decodes them.
struct Stored {
  Fd file;
  std::vector<std::byte> bytes;
  std::span<std::byte> aligned;
  struct Part {
    std::size_t at, stored;
  };
  std::vector<Part> parts;
  std::vector<std::byte> unit;
};

// What all rounds work on.
struct Bench {
  vmm::Kvm kvm;
  std::string path;
  snapshot::Store store;
  std::unique_ptr<snapshot::PagerImages> images;
  std::unique_ptr<uffd::PagerService> pager;
  Touches cold, warm, one;
  Stored stored;
  uffd::FaultCounts faults;  // of the last cold restore with a hot set
  snapshot::SourceCounts source;
  std::string engine;
};

// Synced files only, as all of a snapshot's are.
void drop_cache(const Bench& bench, const char* name) {
  const auto opened = must(snapshot::OpenedSnapshot::open(bench.store, named(name)));
  for (const std::string& each :
       must(directory_entries("/proc/self/fd/" + std::to_string(opened.directory().get())))) {
    const auto file = open_at(opened.directory().get(), each.c_str(), O_RDONLY);
    if (file) ::posix_fadvise(file->get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

void keep_counts(Bench& bench, const snapshot::Sandbox& sandbox) {
  const snapshot::SnapshotSource* const source = sandbox.pager().source();
  if (source == nullptr) return;
  bench.faults = sandbox.pager().server()->counts();
  bench.source = source->counts();
  bench.engine = source->engine() == nullptr ? "none" : source->engine();
}

// Restore and call, in milliseconds.
double restored_ms(Bench& bench, const char* name, const Touches& touches,
                   const snapshot::RestoreOptions& options) {
  const double from = now_ms();
  snapshot::Restored restored =
      must(snapshot::restore(bench.kvm, bench.store, named(name), options));
  const vmm::Reply reply =
      must(snapshot::first_call(restored, touches.call, vmm::Deadline::in_ms(60'000), {}));
  const double took = now_ms() - from;
  need(reply.checksum == touches.sum, "the guest answered another checksum");
  if (options.hot_set == HotSetMode::kUse) keep_counts(bench, *restored.sandbox);
  return took;
}

void record(Bench& bench, const char* name, const Touches& touches) {
  snapshot::Restored restored =
      must(snapshot::restore(bench.kvm, bench.store, named(name),
                             {.loader = snapshot::Loader::kUffd, .hot_set = HotSetMode::kRecord}));
  must(snapshot::first_call(restored, touches.call, vmm::Deadline::in_ms(60'000), {}));
  must(snapshot::save_hot_set(*restored.sandbox));
}

// ---- The floor: one read, then one unit after another decoded.
void write_stored(Bench& bench, const TextGuest& guest) {
  const auto opened = must(snapshot::OpenedSnapshot::open(bench.store, named("cold")));
  Stored& stored = bench.stored;
  std::vector<std::byte> all;
  std::vector<std::uint64_t> units;
  for (const std::uint64_t page : bench.cold.pages) {
    units.push_back(guest_abi::working_set_page(guest.base, page) / kUnit);
  }
  std::ranges::sort(units);
  const auto repeated = std::ranges::unique(units);
  units.erase(repeated.begin(), repeated.end());
  for (const std::uint64_t unit : units) {
    const auto entry = must(opened.index().position_of(unit));
    need(entry.has_value(), "a touched unit is not stored");
    const auto place = must(snapshot::place_of(opened, opened.index(), *entry));
    stored.parts.push_back({all.size(), place.stored_bytes});
    all.resize(all.size() + place.stored_bytes);
    must(read_exact(*place.fd, std::span(all).last(place.stored_bytes), place.offset, "units"));
  }
  all.resize((all.size() + kPage - 1) / kPage * kPage);
  const std::string path = bench.path + "/units";
  const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT, 0600));
  must(write_all(file, all, 0, path));
  must(sync(file, path));
  stored.file = must(open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECT));
  stored.bytes.resize(all.size() + kPage);
  void* at = stored.bytes.data();
  std::size_t room = stored.bytes.size();
  need(std::align(kPage, all.size(), at, room) != nullptr, "no memory");
  stored.aligned = {static_cast<std::byte*>(at), all.size()};
  stored.unit.resize(kUnit);
}

double disk_ms(Bench& bench) {
  Stored& stored = bench.stored;
  const double from = now_ms();
  must(read_exact(stored.file, stored.aligned, 0, "units"));
  ZSTD_DCtx* const context = ::ZSTD_createDCtx();
  for (const Stored::Part& part : stored.parts) {
    const auto bytes = stored.aligned.subspan(part.at, part.stored);
    const std::size_t got =
        part.stored == kUnit
            ? (std::memcpy(stored.unit.data(), bytes.data(), kUnit), kUnit)
            : ::ZSTD_decompressDCtx(context, stored.unit.data(), kUnit, bytes.data(), bytes.size());
    need(got == kUnit, "a unit was not decoded");
  }
  ::ZSTD_freeDCtx(context);
  return now_ms() - from;
}

// ---- Rounds.
using Run = std::function<double()>;

std::vector<double> medians(const std::vector<Run>& runs, unsigned long rounds) {
  std::vector<std::vector<double>> times(runs.size());
  for (unsigned long round = 0; round <= rounds; ++round) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const std::size_t turn = (i + round) % runs.size();
      const double took = runs[turn]();
      if (round != 0) times[turn].push_back(took);  // the first warms up
    }
  }
  std::vector<double> all;
  for (auto& each : times) all.push_back(median(std::move(each)));
  return all;
}

struct Figures {
  std::vector<double> cold, warm, one;
};

Figures measure(Bench& bench, unsigned long rounds) {
  const auto cold = [&](HotSetMode mode) -> Run {
    return [&bench, mode] {
      drop_cache(bench, "cold");
      return restored_ms(bench, "cold", bench.cold,
                         {.loader = snapshot::Loader::kUffd, .hot_set = mode});
    };
  };
  const auto map = [&](const char* name, const Touches& touches, HotSetMode mode) -> Run {
    return [&bench, &touches, name, mode] {
      return restored_ms(bench, name, touches, {.loader = snapshot::Loader::kMap, .hot_set = mode});
    };
  };
  const Run disk = [&] { return disk_ms(bench); };
  const Run memory = [&] {
    snapshot::RestoreOptions options;
    options.pager = bench.path + "/pager";
    return restored_ms(bench, "cold", bench.cold, options);
  };
  const HotSetMode use = HotSetMode::kUse, off = HotSetMode::kOff;
  return {.cold = medians({cold(use), cold(off), disk, disk, memory, memory}, rounds),
          .warm = medians({map("warm", bench.warm, use), map("warm", bench.warm, off),
                           map("warm", bench.warm, off)},
                          rounds * 10),
          .one = medians(
              {map("one", bench.one, use), map("one", bench.one, off), map("one", bench.one, off)},
              rounds * 20)};
}

// ---- What is measured on.
// As if only the first page that the call writes had been touched.
void keep_one_page(const Bench& bench, const TextGuest& guest) {
  const auto opened = must(snapshot::OpenedSnapshot::open(bench.store, named("one")));
  formats::HotSet set = {.digest = {},
                         .pages = {{guest_abi::working_set_page(guest.base, 0) / kPage, true}}};
  std::memcpy(set.digest.data(), opened.manifest().memory().digest().data(), set.digest.size());
  const Fd file = must(
      open_at(opened.directory().get(), snapshot::kHotSetFile, O_WRONLY | O_CREAT | O_EXCL, 0444));
  must(write_all(file, formats::encode_hot_set(set), 0, snapshot::kHotSetFile));
}

void prepare(Bench& bench, std::uint64_t working_set, std::uint64_t touched) {
  const TextGuest cold =
      capture_text_guest(bench.kvm, bench.store, "cold", 2 * working_set, working_set);
  bench.cold = touches_of(cold, scattered(cold, touched));
  record(bench, "cold", bench.cold);
  must(snapshot::pack(bench.store, named("cold"), {}));
  write_stored(bench, cold);
  bench.images = std::make_unique<snapshot::PagerImages>(bench.store, uffd::FaultOptions{});
  bench.pager = must(uffd::PagerService::start(
      {.path = bench.path + "/pager",
       .open = [&bench](const std::string& name) { return bench.images->open(name); },
       .may_poison = snapshot::pages_can_be_poisoned()}));
  const std::uint64_t small = std::min<std::uint64_t>(working_set, 64 * kMiB);
  for (const char* name : {"warm", "one"}) {
    const bool is_warm = name == std::string_view("warm");
    const std::uint64_t bytes = is_warm ? small : small - kUnit;  // two snapshots, not one
    const TextGuest guest = capture_text_guest(bench.kvm, bench.store, name, 4 * small, bytes);
    std::vector<std::uint64_t> pages = {0};
    for (std::uint64_t i = 1; is_warm && i < 1'024; ++i) {
      pages.push_back(i * (small / kPage) / 1'024);
    }
    const auto repeated = std::ranges::unique(pages);
    pages.erase(repeated.begin(), repeated.end());
    (is_warm ? bench.warm : bench.one) = touches_of(guest, std::move(pages));
    is_warm ? record(bench, name, bench.warm) : keep_one_page(bench, guest);
  }
}

void print(const Bench& bench, const Figures& got, bool json) {
  const double disk = (got.cold[2] + got.cold[3]) / 2;
  const double memory = (got.cold[4] + got.cold[5]) / 2;
  const double floor = std::max(disk, memory);
  const double aa = disk > memory ? got.cold[2] / got.cold[3] : got.cold[4] / got.cold[5];
  std::printf(json ? "[{\"what\": \"cold\", \"with_ms\": %.2f, \"without_ms\": %.2f, \"disk_ms\": "
                     "%.2f, \"memory_ms\": %.2f, \"ratio\": %.3f, \"bar\": 1.3, \"aa_ratio\": "
                     "%.3f, \"gain\": %.2f,\n"
                   : "cold: with %.2f ms, without %.2f; floors: disk %.2f, memory %.2f\n"
                     "  to the larger floor %.3f (bar 1.3), A/A %.3f; without / with %.2f\n",
              got.cold[0], got.cold[1], disk, memory, got.cold[0] / floor, aa,
              got.cold[1] / got.cold[0]);
  std::printf(json ? " \"engine\": \"%s\", \"prefetched\": %llu, \"faults\": %llu, "
                     "\"units_read\": %llu, \"units_decoded\": %llu, \"units_wasted\": %llu},\n"
                   : "  by %s: %llu prefetched, %llu faults; %llu units read, %llu decoded, "
                     "%llu wasted\n",
              bench.engine.c_str(), static_cast<unsigned long long>(bench.faults.prefetched),
              static_cast<unsigned long long>(bench.faults.faults),
              static_cast<unsigned long long>(bench.source.units_read),
              static_cast<unsigned long long>(bench.source.units_decoded),
              static_cast<unsigned long long>(bench.source.units_wasted));
  const auto row = [&](const char* what, const std::vector<double>& times, double bar, bool last) {
    const double without = (times[1] + times[2]) / 2;
    std::printf(json ? "{\"what\": \"%s\", \"with_ms\": %.3f, \"without_ms\": %.3f, \"ratio\": "
                       "%.3f, \"bar\": %.2f, \"aa_ratio\": %.3f}%s\n"
                     : "%s: with %.3f ms, without %.3f: %.3f (bar %.2f), A/A %.3f%s\n",
                what, times[0], without, times[0] / without, bar, times[1] / times[2],
                !json  ? ""
                : last ? "]"
                       : ",");
  };
  row("map, 1,024 pages", got.warm, 0.65, false);
  row("map, one page", got.one, 1.05, true);
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
  std::string path = (words.size() > 3 ? words[3] : "/var/tmp") + "/volt-hotset-bench-XXXXXX";
  need(::mkdtemp(path.data()) != nullptr, "no directory could be made");
  {
    Bench bench = {.kvm = must(vmm::Kvm::open()),
                   .path = path,
                   .store = snapshot::Store(path + "/data"),
                   .images = {},
                   .pager = {},
                   .cold = {},
                   .warm = {},
                   .one = {},
                   .stored = {},
                   .faults = {},
                   .source = {},
                   .engine = {}};
    prepare(bench, number(1, 1'024) * kMiB, number(2, 64) * kMiB);
    print(bench, measure(bench, number(0, 15)), json);
  }
  std::filesystem::remove_all(path);
  return 0;
}
