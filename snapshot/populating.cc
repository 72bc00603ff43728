#include "snapshot/populating.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <span>
#include <utility>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace volt::snapshot {
namespace {

using formats::HotPage;
using formats::kHotPageBytes;

// A thread costs as much as this many faults.
constexpr std::size_t kWorthAThread = 24;
// Pages whose first touches were this close together are populated in ascending order, as runs.
constexpr std::size_t kWindowPages = 2048;
// Read along rather than asked for apart.
constexpr std::uint64_t kGapBytes = 128 << 10;
constexpr std::size_t kSamples = 16;

// Whether some of the file is not in the page cache: a few of its hot pages are asked.
bool is_cold(int file, std::span<const std::uint64_t> offsets) {
  const std::size_t step = std::max<std::size_t>(1, offsets.size() / kSamples);
  for (std::size_t i = 0; i < offsets.size(); i += step) {
    std::byte byte[1];
    const iovec part = {.iov_base = byte, .iov_len = 1};
    if (::preadv2(file, &part, 1, static_cast<off_t>(offsets[i]), RWF_NOWAIT) == 1) continue;
    if (errno != EOPNOTSUPP) return true;
  }
  return false;
}

}  // namespace

std::unique_ptr<Populating> Populating::start(const formats::HotSet& set,
                                              const OpenedSnapshot& snapshot,
                                              const vmm::GuestMemory& memory, int memory_file) {
  if (set.pages.size() < kWorthAThread) return nullptr;
  Work work = {.read = {}, .write = {}, .file = memory_file};
  std::vector<std::uint64_t> offsets;
  std::vector<std::uint64_t> written;
  for (const HotPage& page : set.pages) {
    const auto offset =
        memory_file < 0 ? std::nullopt : data_offset(snapshot.manifest().memory(), page.page);
    if (offset) offsets.push_back(*offset);
    if (page.written) written.push_back(page.page);
  }
  if (memory_file >= 0 && is_cold(memory_file, offsets)) {
    for (const std::uint64_t offset : offsets) {
      Run* const last = work.read.empty() ? nullptr : &work.read.back();
      const std::uint64_t end = last == nullptr ? 0 : last->file_offset + last->bytes;
      if (last != nullptr && offset >= last->file_offset && offset <= end + kGapBytes) {
        last->bytes = std::max(last->bytes, offset + kHotPageBytes - last->file_offset);
      } else {
        work.read.push_back({nullptr, offset, kHotPageBytes});
      }
    }
  }
  for (std::size_t at = 0; at < written.size(); at += kWindowPages) {
    const auto window = std::span(written).subspan(at, std::min(kWindowPages, written.size() - at));
    std::ranges::sort(window);
    for (const std::uint64_t page : window) {
      const auto host = memory.at(page * kHotPageBytes, kHotPageBytes);
      if (!host) continue;
      Run* const last = work.write.empty() ? nullptr : &work.write.back();
      if (last != nullptr && last->host + last->bytes == host->data()) {
        last->bytes += kHotPageBytes;
      } else {
        work.write.push_back({host->data(), 0, kHotPageBytes});
      }
    }
  }
  if (work.read.empty() && written.size() < kWorthAThread) return nullptr;
  return on_a_thread([work = std::move(work)](const std::stop_token& stop) { run(stop, work); });
}

std::unique_ptr<Populating> Populating::behind(const formats::HotSet& set,
                                               const OpenedSnapshot& snapshot,
                                               const vmm::GuestMemory& memory,
                                               std::shared_ptr<Arrivals> arrivals) {
  std::vector<std::uint64_t> written;
  for (const HotPage& page : set.pages) {
    if (page.written) written.push_back(page.page);
  }
  if (written.size() < kWorthAThread) return nullptr;
  std::ranges::sort(written);
  RunsByUnit runs;
  for (const std::uint64_t page : written) {
    const auto offset = data_offset(snapshot.manifest().memory(), page);
    const auto host = memory.at(page * kHotPageBytes, kHotPageBytes);
    if (!offset || !host) continue;
    std::vector<Run>& of_unit = runs[*offset / snapshot.index().unit_bytes()];
    const bool joins =
        !of_unit.empty() && of_unit.back().host + of_unit.back().bytes == host->data();
    if (joins) {
      of_unit.back().bytes += kHotPageBytes;
    } else {
      of_unit.push_back({host->data(), *offset, kHotPageBytes});
    }
  }
  return on_a_thread([runs = std::move(runs),
                      arrivals = std::move(arrivals)](const std::stop_token& stop) mutable {
    follow(stop, std::move(runs), *arrivals);
  });
}

template <typename Body>
std::unique_ptr<Populating> Populating::on_a_thread(Body body) {
  auto populating = std::make_unique<Populating>();
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  populating->thread_ = std::jthread(std::move(body));
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return populating;
}

void Arrivals::add(std::uint64_t unit) {
  {
    const std::lock_guard lock(mutex_);
    units_.push_back(unit);
  }
  changed_.notify_one();
}

std::vector<std::uint64_t> Arrivals::take(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop, [this] { return !units_.empty(); });
  if (stop.stop_requested()) return {};
  return std::exchange(units_, {});
}

// All of a unit is in the image when it is told of, so that nothing here waits for a pager.
void Populating::follow(const std::stop_token& stop, RunsByUnit runs, Arrivals& arrivals) {
  while (!runs.empty()) {
    const std::vector<std::uint64_t> units = arrivals.take(stop);
    if (units.empty()) return;
    for (const std::uint64_t unit : units) {
      if (stop.stop_requested()) return;
      const auto found = runs.find(unit);
      if (found == runs.end()) continue;
      for (const Run& run : found->second) {
        if (::madvise(run.host, run.bytes, MADV_POPULATE_WRITE) != 0) return;
      }
      runs.erase(found);
    }
  }
}

// Nothing here can go wrong for the guest: what is not populated is faulted in, and a page that
// cannot be had is its error then.
void Populating::run(const std::stop_token& stop, const Work& work) {
  for (const Run& run : work.read) {
    if (stop.stop_requested()) return;
    ::readahead(work.file, static_cast<off64_t>(run.file_offset), run.bytes);
  }
  // In parts, so that a sandbox that ends does not wait for long.
  constexpr std::size_t kPart = 1 << 20;
  for (const Run& run : work.write) {
    for (std::size_t at = 0; at < run.bytes; at += kPart) {
      if (stop.stop_requested()) return;
      const std::size_t bytes = std::min(kPart, run.bytes - at);
      if (::madvise(run.host + at, bytes, MADV_POPULATE_WRITE) != 0) return;
    }
  }
}

}  // namespace volt::snapshot
