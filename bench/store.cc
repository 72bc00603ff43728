// Question: what does packed storage cost beside the zstd library alone, and does opening a
// snapshot grow with its size?
// Method: a guest with text-like memory (2 to 3 times smaller when compressed) is captured into a
// data directory in memory (/dev/shm, unless told otherwise). pack: pack_units() from the raw file
// into a pack, both there: reading, checking, looking for what is stored, compressing, summing,
// writing. unpack: every unit from the pack into memory: reading, both sums, decoding. The floor
// calls zstd on the same units, level and number of threads, one context for each, from memory to
// memory, every page resident. deep verify: check_memory() beside the slowest of reading, decoding
// and hashing by themselves. Rounds are interleaved, each goes first in turn; the floor runs twice
// in each, and its ratio with itself is the noise. Opening: medians of OpenedSnapshot::open(), and
// of opening and searching synthetic tables.
// Not measured: fsync, the disk.
//   volt-store-bench [--json] [ROUNDS [MIB [DIRECTORY]]]
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string_view>
#include <thread>

#include "snapshot/capture.h"
#include "snapshot/check_memory.h"
#include "snapshot/file_view.h"
#include "snapshot/restore.h"
#include "snapshot/unit_reader.h"
#include "tools/guest/micro_image.h"
#include "vmm/os/file.h"

namespace {

using namespace volt;
using formats::IndexEntry;

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "volt-store-bench: %s\n", result.error().context.c_str());
    std::exit(result.error().code == Code::kHostUnable ? 6 : 1);
  }
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

double now_ms(clockid_t clock = CLOCK_MONOTONIC) {
  timespec now;
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Text-like: words of a small language, numbers between them.
std::vector<std::byte> make_text(std::uint64_t bytes) {
  std::mt19937_64 random(20'24);
  std::vector<std::string> words;
  for (int i = 0; i < 4'000; ++i) {
    std::string& word = words.emplace_back();
    for (std::uint64_t n = 2 + random() % 8; n > 0; --n) {
      word += static_cast<char>('a' + std::min(random() % 26, random() % 26));
    }
  }
  std::vector<std::byte> text(bytes);
  std::size_t at = 0;
  while (at < bytes) {
    const std::uint64_t pick = random();
    std::string word = pick % 6 == 0 ? std::to_string(pick >> 40)
                                     : words[std::min(pick % 4'000, (pick >> 32) % 4'000)];
    word += ' ';
    const std::size_t part = std::min<std::size_t>(word.size(), bytes - at);
    std::memcpy(text.data() + at, word.data(), part);
    at += part;
  }
  return text;
}

// What all rounds work on.
struct Bench {
  snapshot::Store store;
  unsigned threads = snapshot::default_threads();
  std::uint64_t unit_bytes = formats::kDefaultUnitBytes;
  std::vector<IndexEntry> entries;
  Fd raw_file;                       // the memory, raw
  std::vector<std::byte> raw;        // units one after another, resident
  std::vector<std::byte> stored;     // each unit's frame at its unit's place
  std::vector<std::size_t> lengths;  // of the frames
  std::vector<std::byte> out;        // resident

  std::uint64_t units() const { return entries.size(); }
  std::span<std::byte> at(std::vector<std::byte>& bytes, std::uint64_t i) const {
    return std::span(bytes).subspan(i * unit_bytes, unit_bytes);
  }
};

// The floor's threads: unit after unit, whoever is free takes the next.
template <typename MakeContext, typename Use>
void on_threads(Bench& bench, MakeContext&& make_context, Use&& use) {
  std::atomic<std::uint64_t> next = 0;
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < bench.threads; ++t) {
    threads.emplace_back([&] {
      auto context = make_context();
      for (std::uint64_t i = next++; i < bench.units(); i = next++) use(context, i);
    });
  }
}

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ::ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ::ZSTD_freeDCtx(context); }
};

void floor_pack(Bench& bench) {
  on_threads(
      bench, [] { return std::unique_ptr<ZSTD_CCtx, FreeContext>(::ZSTD_createCCtx()); },
      [&](auto& context, std::uint64_t i) {
        const auto from = bench.at(bench.raw, i);
        const auto into = bench.at(bench.out, i);
        std::size_t length = ::ZSTD_compressCCtx(context.get(), into.data(), into.size(),
                                                 from.data(), from.size(), snapshot::kDefaultLevel);
        if (::ZSTD_isError(length) != 0) {  // what does not fit is stored as it is
          std::memcpy(into.data(), from.data(), from.size());
          length = from.size();
        }
        bench.lengths[i] = length;
      });
}

void floor_unpack(Bench& bench) {
  on_threads(
      bench, [] { return std::unique_ptr<ZSTD_DCtx, FreeContext>(::ZSTD_createDCtx()); },
      [&](auto& context, std::uint64_t i) {
        const auto into = bench.at(bench.out, i);
        const auto from = bench.at(bench.stored, i).first(bench.lengths[i]);
        if (from.size() == into.size()) {
          std::memcpy(into.data(), from.data(), from.size());
          return;
        }
        ::ZSTD_decompressDCtx(context.get(), into.data(), into.size(), from.data(), from.size());
      });
}

// ---- Ours.
void our_pack(Bench& bench) {
  const auto packs =
      must(snapshot::Packs::open(bench.store.packs() + "-bench", snapshot::Packs::Lock::kShared));
  std::vector<std::uint64_t> order(bench.units());
  for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  must(snapshot::pack_units(packs, bench.entries, order, bench.unit_bytes,
                            snapshot::raw_reader(bench.raw_file, bench.entries),
                            {.threads = bench.threads}));
}

snapshot::OpenedSnapshot open(const Bench& bench, const char* name) {
  return must(snapshot::OpenedSnapshot::open(bench.store, must(snapshot::Reference::parse(name))));
}

void our_unpack(Bench& bench) {
  const auto opened = open(bench, "packed");
  must(snapshot::for_each_unit(opened, bench.threads,
                               [&](snapshot::UnitReader& reader, std::uint64_t i) {
                                 return reader.read(i, bench.at(bench.out, i));
                               }));
}

void our_verify(Bench& bench) {
  const auto opened = open(bench, "packed");
  must(snapshot::check_memory(opened));
}

void read_alone(Bench& bench) {
  const auto opened = open(bench, "packed");
  on_threads(
      bench, [&] { return std::vector<std::byte>(bench.unit_bytes); },
      [&](auto& buffer, std::uint64_t i) {
        const auto place = must(snapshot::place_of(opened, opened.index(), i));
        must(read_exact(*place.fd, std::span(buffer).first(place.stored_bytes), place.offset, ""));
      });
}

void hash_alone(Bench& bench) {
  on_threads(
      bench, [] { return formats::Xxh128{}; },
      [&](auto& sum, std::uint64_t i) {
        sum = formats::xxh128(bench.at(bench.stored, i).first(bench.lengths[i]));
        sum = formats::xxh128(bench.at(bench.raw, i));
      });
}

// ---- Rounds.
struct Row {
  const char* what;
  double ours_ms, floor_ms, noise, bar, mib;
  double cpu_ratio;  // the same of processor time, which other programs disturb less
  double ratio() const { return floor_ms / ours_ms; }
};

using Run = std::function<void(Bench&)>;

// `floors`: the slowest counts.
Row compare(const char* what, Bench& bench, const Run& ours, std::vector<Run> floors, double bar,
            unsigned long rounds) {
  floors.push_back(floors[0]);
  std::vector<std::vector<double>> times(floors.size() + 1), cpu(floors.size() + 1);
  for (unsigned long round = 0; round <= rounds; ++round) {
    for (std::size_t i = 0; i < times.size(); ++i) {
      const std::size_t turn = (i + round) % times.size();
      std::filesystem::remove_all(bench.store.packs() + "-bench");
      const double from = now_ms();
      const double cpu_from = now_ms(CLOCK_PROCESS_CPUTIME_ID);
      turn == 0 ? ours(bench) : floors[turn - 1](bench);
      if (round == 0) continue;  // it warms up
      times[turn].push_back(now_ms() - from);
      cpu[turn].push_back(now_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu_from);
    }
  }
  double slowest = 0, slowest_cpu = 0;
  for (std::size_t i = 1; i + 1 < times.size(); ++i) {
    slowest = std::max(slowest, median(times[i]));
    slowest_cpu = std::max(slowest_cpu, median(cpu[i]));
  }
  return {.what = what,
          .ours_ms = median(times[0]),
          .floor_ms = slowest,
          .noise = median(times[1]) / median(times.back()),
          .bar = bar,
          .mib = static_cast<double>(bench.raw.size()) / (1 << 20),
          .cpu_ratio = slowest_cpu / median(cpu[0])};
}

// ---- What is measured on.
void make_snapshot(const snapshot::Store& store, const char* name, std::uint64_t ram_bytes,
                   std::span<const std::byte> text) {
  const vmm::Kvm kvm = must(vmm::Kvm::open());
  const vmm::BootConfig config = {.workload = guest_abi::Workload::kKv,
                                  .ram_bytes = ram_bytes,
                                  .working_set_bytes = 1 << 20,
                                  .seed = 1};
  auto booted = must(
      snapshot::boot_sandbox(kvm, {tools::micro_image(), config}, vmm::Deadline::in_ms(60'000)));
  must(booted.sandbox->memory().write(64 << 20, text));
  must(snapshot::capture(kvm, *booted.sandbox, store, must(snapshot::Reference::parse(name)), {}));
}

void prepare(Bench& bench, std::uint64_t mib) {
  make_snapshot(bench.store, "packed", (mib + 128) << 20, make_text(mib << 20));
  {
    const auto opened = open(bench, "packed");
    for (std::uint64_t i = 0; i < opened.index().entry_count(); ++i) {
      bench.entries.push_back(must(opened.index().at(i)));
    }
    bench.raw_file = must(open_at(opened.directory().get(), snapshot::kMemoryFile, O_RDONLY));
  }
  const std::size_t bytes = bench.units() * bench.unit_bytes;
  bench.raw.resize(bytes);
  bench.out.resize(bytes);
  bench.lengths.resize(bench.units());
  for (std::uint64_t i = 0; i < bench.units(); ++i) {
    must(read_exact(bench.raw_file, bench.at(bench.raw, i), bench.entries[i].place, "memory"));
  }
  floor_pack(bench);
  bench.stored = bench.out;
  must(snapshot::pack(bench.store, must(snapshot::Reference::parse("packed")), {}));
}

// The same snapshot with more memory than the built-in guest can address, all of it zeros: for
// opening, not for running.
void make_large(const snapshot::Store& store, const char* from, const char* name,
                std::uint64_t bytes) {
  const auto small =
      must(snapshot::OpenedSnapshot::open(store, must(snapshot::Reference::parse(from))));
  formats::Manifest manifest = small.manifest();
  auto& last = *manifest.mutable_memory()->mutable_regions(manifest.memory().regions_size() - 1);
  last.set_size_bytes(bytes - last.file_offset());
  snapshot::Draft draft = must(store.begin());
  const std::vector<std::byte> encoded = formats::encode(manifest);
  const auto put = [&](const char* file, std::span<const std::byte> content) {
    must(write_all(must(draft.create_file(file)), content, 0, file));
  };
  for (const char* file : {snapshot::kStateFile, snapshot::kIndexFile}) {
    const Fd source = must(open_at(small.directory().get(), file, O_RDONLY));
    put(file, must(read_whole(source, 1 << 30, file)));
  }
  put(snapshot::kManifestFile, encoded);
  const Fd memory = must(draft.create_file(snapshot::kMemoryFile));
  if (::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0) std::exit(1);
  must(store.publish(std::move(draft), formats::sha256(encoded),
                     must(snapshot::Reference::parse(name)), snapshot::Store::IfTaken::kRefuse));
}

// Median microseconds of one call.
double microseconds(int times, const std::function<void()>& run) {
  std::vector<double> all;
  for (int i = 0; i < times; ++i) {
    const double from = now_ms();
    run();
    all.push_back((now_ms() - from) * 1e3);
  }
  return median(all);
}

double open_us(const Bench& bench, const char* name) {
  return microseconds(300, [&] { open(bench, name); });
}

// Opening a table of that many units and finding 16 of them.
double table_us(const std::string& path, std::uint64_t units) {
  {
    std::vector<formats::StoredUnit> stored(units);
    for (std::uint64_t i = 0; i < units; ++i) stored[i] = {{}, 80 + i * 4096, 0, 4096};
    const std::vector<formats::Container> containers = {{formats::Container::Kind::kPack, {}}};
    const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
    must(write_all(file, formats::encode_unit_table(stored, containers, {}, 4096), 0, path));
  }
  return microseconds(300, [&] {
    const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
    const auto view = must(snapshot::FileView::of(file, must(file_size(file, path)), path));
    const auto table = must(formats::UnitTable::open(view.bytes()));
    for (std::uint64_t i = 0; i < 16; ++i) must(table.at(i * (units / 16)));
  });
}

void print(const std::vector<Row>& rows, const double (&opens)[4], bool json) {
  if (!json) {
    std::printf("%-12s %10s %10s %8s %8s %6s\n", "medians", "MiB/s", "floor", "ratio", "A/A",
                "bar");
  }
  for (const Row& row : rows) {
    std::printf(json ? "%s{\"what\": \"%s\", \"mib_s\": %.0f, \"floor_mib_s\": %.0f, \"ratio\": "
                       "%.3f, \"aa_ratio\": %.3f, \"cpu_ratio\": %.3f, \"bar\": %.2f},\n"
                     : "%s%-12s %10.0f %10.0f %8.3f %8.3f %8.3f %6.2f\n",
                json && &row == rows.data() ? "[" : "", row.what, row.mib / row.ours_ms * 1e3,
                row.mib / row.floor_ms * 1e3, row.ratio(), row.noise, row.cpu_ratio, row.bar);
  }
  std::printf(json ? "{\"open_1gib_us\": %.1f, \"open_64gib_us\": %.1f, \"table_512k_us\": %.1f, "
                     "\"table_4m_us\": %.1f}]\n"
                   : "open: 1 GiB %.1f us, 64 GiB %.1f us; table of 512 Ki units %.1f us, of 4 Mi "
                     "%.1f us\n",
              opens[0], opens[1], opens[2], opens[3]);
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json") {
      json = true;
    } else {
      words.emplace_back(argv[i]);
    }
  }
  const unsigned long rounds = words.empty() ? 9 : std::max(std::stoul(words[0]), 1ul);
  const std::uint64_t mib = words.size() > 1 ? std::max(std::stoul(words[1]), 1ul) : 128;
  std::string path = (words.size() > 2 ? words[2] : "/dev/shm") + "/volt-store-bench-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return 1;
  Bench bench = {.store = snapshot::Store(path + "/data")};
  prepare(bench, mib);
  std::vector<Row> rows;
  rows.push_back(compare("pack", bench, our_pack, {floor_pack}, 0.85, rounds));
  floor_pack(bench);  // the lengths
  rows.push_back(compare("unpack", bench, our_unpack, {floor_unpack}, 0.85, rounds));
  rows.push_back(compare("deep verify", bench, our_verify, {floor_unpack, read_alone, hash_alone},
                         0.8, rounds));
  make_snapshot(bench.store, "small", 1ull << 30, {});
  make_large(bench.store, "small", "large", 64ull << 30);
  const double opens[4] = {open_us(bench, "small"), open_us(bench, "large"),
                           table_us(path + "/table", 512 << 10),
                           table_us(path + "/table", 4 << 20)};
  print(rows, opens, json);
  std::filesystem::remove_all(path);
  return 0;
}
