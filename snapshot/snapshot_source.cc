#include "snapshot/snapshot_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "snapshot/ordered_work.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using uffd::Priority;

constexpr std::uint64_t kAlign = 4096;            // of a read past the page cache
constexpr std::uint64_t kReadBytes = 512 << 10;   // what one read brings, at most
constexpr std::uint64_t kMaxReadBytes = 2 << 20;  // where one unit is more than that
constexpr std::uint64_t kGapBytes = 32 << 10;     // read along rather than asked for apart
constexpr std::size_t kSlots = 16;
constexpr std::size_t kDemandSlots = 4;  // that no prefetch may take

std::uint64_t round_down(std::uint64_t value) {
  return value / kAlign * kAlign;
}
std::uint64_t round_up(std::uint64_t value) {
  return round_down(value + kAlign - 1);
}

// Whether the page cache has all of it. The mapping is never read through.
bool resident(const Mapping& file, std::uint64_t offset, std::size_t bytes) {
  const std::uint64_t from = round_down(offset);
  const std::uint64_t end = std::min<std::uint64_t>(round_up(offset + bytes), file.size());
  std::array<unsigned char, kMaxReadBytes / kAlign + 1> pages;
  if (from >= end || (end - from) / kAlign > pages.size()) return false;
  if (::mincore(file.data() + from, end - from, pages.data()) != 0) return true;
  const auto count = static_cast<std::ptrdiff_t>((end - from + kAlign - 1) / kAlign);
  return std::all_of(pages.begin(), pages.begin() + count, [](auto page) { return page & 1; });
}

// Reads what the page cache has: fewer bytes where it has not all. A file system that cannot tell
// is memory itself. It is asked first whether it has them: a read that may not wait fails where
// they are missing, but has the kernel fetch them, behind the back of a read past the cache.
std::size_t read_cached(int file, const Mapping* mapped, std::span<std::byte> into,
                        std::uint64_t offset) {
  if (mapped != nullptr && !resident(*mapped, offset, into.size())) return 0;
  const iovec part = {.iov_base = into.data(), .iov_len = into.size()};
  ssize_t got = ::preadv2(file, &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  if (got < 0 && errno == EOPNOTSUPP) {
    got = ::preadv(file, &part, 1, static_cast<off_t>(offset));
  }
  return got < 0 ? 0 : static_cast<std::size_t>(got);
}

}  // namespace

SnapshotSource::Desk::Desk(const OpenedSnapshot& snapshot)
    : reader(snapshot),
      stored(snapshot.index().unit_bytes()),
      unit(snapshot.index().unit_bytes()) {}

SnapshotSource::SnapshotSource(std::shared_ptr<const OpenedSnapshot> snapshot,
                               const SourceOptions& options)
    : snapshot_(std::move(snapshot)),
      options_(options),
      zeros_(snapshot_->index().unit_bytes()),
      slot_size_(std::max(kReadBytes, zeros_.size()) + 2 * kAlign) {
  if (snapshot_->is_raw()) {
    files_.push_back(snapshot_->memory().get());
  } else {
    for (const auto& container : snapshot_->containers()) files_.push_back(container.file.get());
  }
  for (const int file : files_) {
    struct stat info;
    mapped_.push_back(nullptr);
    if (::fstat(file, &info) != 0 || info.st_size == 0) continue;
    auto mapped = Mapping::create(static_cast<std::size_t>(info.st_size), PROT_READ, MAP_SHARED,
                                  file, 0, "stored units");
    if (mapped) mapped_.back() = std::make_unique<Mapping>(*std::move(mapped));
  }
}

SnapshotSource::~SnapshotSource() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  workers_.clear();
  reader_.reset();  // waits for reads under way
}

SnapshotSource::DeskPtr SnapshotSource::take_desk() {
  {
    const std::lock_guard lock(mutex_);
    if (!desks_.empty()) {
      DeskPtr desk = std::move(desks_.back());
      desks_.pop_back();
      return desk;
    }
  }
  return std::make_unique<Desk>(*snapshot_);
}

void SnapshotSource::give_back(DeskPtr desk) {
  const std::lock_guard lock(mutex_);
  desks_.push_back(std::move(desk));
}

Result<std::optional<SnapshotSource::Located>> SnapshotSource::locate(std::uint64_t unit) const {
  const formats::MemoryIndex& index = snapshot_->index();
  const std::uint64_t address = snapshot_->guest_address(unit * index.unit_bytes());
  const auto entry = VOLT_TRY(index.position_of(address / index.unit_bytes()));
  if (!entry) return std::nullopt;
  const UnitPlace place = VOLT_TRY(place_of(*snapshot_, snapshot_->index(), *entry));
  const auto file = std::ranges::find(files_, place.fd->get()) - files_.begin();
  return Located{static_cast<std::size_t>(file), {unit, *entry, place.offset, place.stored_bytes}};
}

void SnapshotSource::request(std::span<const uffd::UnitRange> units, Priority priority,
                             uffd::UnitSink& done) {
  std::vector<Located> wanted;
  for (const uffd::UnitRange& range : units) {
    for (std::uint64_t unit = range.first; unit < range.first + range.count; ++unit) {
      const auto located = locate(unit);
      {
        const std::lock_guard lock(mutex_);
        wanted_.try_emplace(unit, true);
      }
      if (!located) {
        if (claim(unit)) done.failed(unit, located.error());
      } else if (!*located) {
        ++zero_;
        if (claim(unit)) done.filled(unit, zeros_);
      } else if (priority != Priority::kDemand || !serve_at_once(**located, done)) {
        wanted.push_back(**located);
      }
    }
  }
  if (!wanted.empty()) enqueue(wanted, priority, done);
}

bool SnapshotSource::serve_at_once(const Located& wanted, uffd::UnitSink& done) {
  DeskPtr desk = take_desk();
  const std::span<std::byte> stored = std::span(desk->stored).first(wanted.member.bytes);
  const bool cached = read_cached(files_[wanted.file], mapped_[wanted.file].get(), stored,
                                  wanted.member.offset) == stored.size();
  if (cached) {
    ++units_read_;
    bytes_read_ += stored.size();
    answer(wanted.member, stored, *desk, done);
  }
  give_back(std::move(desk));
  return cached;
}

// Who takes a unit off the list answers for it; whoever comes later has read it for nothing.
bool SnapshotSource::claim(std::uint64_t unit) {
  const std::lock_guard lock(mutex_);
  return wanted_.erase(unit) == 1;
}

void SnapshotSource::answer(const Member& member, std::span<const std::byte> stored, Desk& desk,
                            uffd::UnitSink& done) {
  const Result<> good = desk.reader.accept(member.entry, stored, desk.unit);
  if (stored.size() != desk.unit.size()) ++decoded_;
  if (!claim(member.unit)) {
    ++wasted_;
    return;
  }
  if (!good) return done.failed(member.unit, good.error());
  ++verified_;
  done.filled(member.unit, desk.unit);
}

void SnapshotSource::enqueue(std::vector<Located>& wanted, Priority priority,
                             uffd::UnitSink& done) {
  std::vector<JobPtr> jobs;
  for (Located& each : wanted) {
    Job* const last = jobs.empty() ? nullptr : jobs.back().get();
    const bool joins =
        last != nullptr && last->file == each.file && each.member.offset >= last->end() &&
        each.member.offset - last->end() <= kGapBytes &&
        each.member.offset + each.member.bytes - last->members.front().offset <= kReadBytes;
    if (joins) {
      last->members.push_back(each.member);
    } else {
      jobs.push_back(std::make_unique<Job>(
          Job{.priority = priority, .done = &done, .file = each.file, .members = {each.member}}));
    }
  }
  {
    const std::lock_guard lock(mutex_);
    start_workers();
    for (JobPtr& job : jobs) {
      (priority == Priority::kDemand ? demands_ : prefetches_).push_back(std::move(job));
    }
  }
  wake_.notify_all();
}

// With mutex_ held. A snapshot whose bytes are all in the page cache, with no hot set, never gets
// here and pays for none of it.
void SnapshotSource::start_workers() {
  if (!workers_.empty()) return;
  for (std::size_t slot = 0; slot < kSlots; ++slot) slots_.push_back(slot);
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const unsigned threads = options_.threads == 0 ? default_threads() : options_.threads;
  for (unsigned i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

std::span<std::byte> SnapshotSource::slot_bytes(std::size_t slot) const {
  return pool_->bytes().subspan(slot * slot_size_, slot_size_);
}

SnapshotSource::JobPtr SnapshotSource::next_job() {
  std::unique_lock lock(mutex_);
  const auto take = [](std::deque<JobPtr>& from) {
    JobPtr job = std::move(from.front());
    from.pop_front();
    return job;
  };
  const auto with_slot = [&](std::deque<JobPtr>& from) {
    JobPtr job = take(from);
    job->slot = slots_.back();
    slots_.pop_back();
    return job;
  };
  for (;;) {
    if (stop_) return nullptr;
    if (!ready_.empty() && ready_.front()->priority == Priority::kDemand) return take(ready_);
    if (!demands_.empty() && !slots_.empty()) return with_slot(demands_);
    if (!ready_.empty()) return take(ready_);
    if (!prefetches_.empty() && slots_.size() > kDemandSlots) return with_slot(prefetches_);
    wake_.wait(lock);
  }
}

void SnapshotSource::work() {
  {
    const std::lock_guard lock(mutex_);
    if (pool_ == nullptr) {
      Result<Mapping> pool = Mapping::create(kSlots * slot_size_, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "read buffers");
      if (pool) pool_ = std::make_unique<Mapping>(*std::move(pool));
    }
  }
  DeskPtr desk = take_desk();
  while (JobPtr job = next_job()) {
    if (pool_ == nullptr) {
      for (const Member& member : job->members) {
        fail_member(*job, member, {Code::kSystem, ENOMEM, "no memory for read buffers"});
      }
      continue;
    }
    if (job->read) {
      finish(std::move(job), *desk);
      continue;
    }
    const std::size_t bytes = job->end() - job->members.front().offset;
    job->from = job->members.front().offset;
    job->got = read_cached(files_[job->file], mapped_[job->file].get(),
                           slot_bytes(job->slot).first(bytes), job->from);
    if (job->got == bytes) {
      finish(std::move(job), *desk);
    } else {
      begin_read(std::move(job));
    }
  }
  give_back(std::move(desk));
}

// Cold: the kernel is asked for it without anybody waiting. Files are opened once more to be read
// past the page cache, where the file system allows it.
void SnapshotSource::begin_read(JobPtr job) {
  ++cold_reads_;
  AsyncReader::Request request = {};
  AsyncReader* reader = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (reader_ == nullptr) {
      std::vector<int> files = files_;
      for (int& file : files) {
        const std::string path = "/proc/self/fd/" + std::to_string(file);
        Result<Fd> direct = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECT);
        if (!options_.direct || !direct) continue;
        file = direct->get();
        direct_files_.push_back(*std::move(direct));
      }
      auto made = AsyncReader::create(
          options_.engine, files, pool_->bytes(), kSlots,
          [this](std::uint64_t cookie, Result<std::size_t> got) { on_read(cookie, got); });
      if (made) reader_ = *std::move(made);
    }
    reader = reader_.get();
    job->from = round_down(job->members.front().offset);
    request = {.file = job->file,
               .offset = job->from,
               .into = slot_bytes(job->slot).first(round_up(job->end()) - job->from),
               .cookie = next_cookie_++};
    reading_.emplace(request.cookie, std::move(job));
  }
  const Result<> put =
      reader == nullptr ? fail(Code::kSystem, "no way to read") : reader->submit(request);
  if (!put) on_read(request.cookie, std::unexpected(put.error()));
}

// What could not be read together is asked for one by one: each unit fails for itself.
void SnapshotSource::on_read(std::uint64_t cookie, const Result<std::size_t>& got) {
  JobPtr lost;  // one unit, and it could not be read
  {
    const std::lock_guard lock(mutex_);
    const auto at = reading_.find(cookie);
    JobPtr job = std::move(at->second);
    reading_.erase(at);
    const bool demand = job->priority == Priority::kDemand;
    if (got) {
      job->got = *got;
      job->read = true;
      demand ? ready_.push_front(std::move(job)) : ready_.push_back(std::move(job));
    } else if (job->members.size() > 1) {
      slots_.push_back(job->slot);
      for (const Member& member : job->members) {
        (demand ? demands_ : prefetches_)
            .push_back(std::make_unique<Job>(Job{.priority = job->priority,
                                                 .done = job->done,
                                                 .file = job->file,
                                                 .members = {member}}));
      }
    } else {
      lost = std::move(job);
    }
  }
  if (lost == nullptr) return wake_.notify_all();
  for (const Member& member : lost->members) fail_member(*lost, member, got.error());
  free_slot(lost->slot);
}

void SnapshotSource::finish(JobPtr job, Desk& desk) {
  const std::span<const std::byte> bytes = slot_bytes(job->slot);
  for (const Member& member : job->members) {
    const std::uint64_t at = member.offset - job->from;
    if (at + member.bytes > job->got) {
      fail_member(*job, member, {Code::kCorrupt, 0, "the file ends too early"});
      continue;
    }
    ++units_read_;
    bytes_read_ += member.bytes;
    answer(member, bytes.subspan(at, member.bytes), desk, *job->done);
  }
  free_slot(job->slot);
}

void SnapshotSource::free_slot(std::size_t slot) {
  {
    const std::lock_guard lock(mutex_);
    slots_.push_back(slot);
  }
  wake_.notify_one();
}

void SnapshotSource::fail_member(const Job& job, const Member& member, const Error& why) {
  if (!claim(member.unit)) return;
  std::string where = "file offset " + std::to_string(member.offset);
  const auto entry = snapshot_->index().at(member.entry);
  if (entry) where = "unit " + std::to_string(entry->unit) + " at " + where;
  const auto place = place_of(*snapshot_, snapshot_->index(), member.entry);
  if (place) where = std::string(place->file) + ": " + where;
  job.done->failed(member.unit, within(where, why));
}

SourceCounts SnapshotSource::counts() const {
  return {.units_read = units_read_,
          .bytes_read = bytes_read_,
          .cold_reads = cold_reads_,
          .units_decoded = decoded_,
          .units_verified = verified_,
          .units_zero = zero_,
          .units_wasted = wasted_};
}

const char* SnapshotSource::engine() const {
  const std::lock_guard lock(mutex_);
  return reader_ == nullptr ? nullptr : engine_name(reader_->engine()).data();
}

}  // namespace volt::snapshot
