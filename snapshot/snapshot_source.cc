#include "snapshot/snapshot_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "snapshot/cached_read.h"
#include "snapshot/ordered_work.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using uffd::Priority;

constexpr std::uint64_t kAlign = 4096;           // of a read past the page cache
constexpr std::uint64_t kReadBytes = 512 << 10;  // what one read brings, at most
constexpr std::uint64_t kGapBytes = 32 << 10;    // read along rather than asked for apart
constexpr std::size_t kSlots = 16;
constexpr std::size_t kDemandSlots = 4;  // that no prefetch may take

std::uint64_t round_down(std::uint64_t value) {
  return value / kAlign * kAlign;
}
std::uint64_t round_up(std::uint64_t value) {
  return round_down(value + kAlign - 1);
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
        Job* const under_way = wanted_.try_emplace(unit, nullptr).first->second;
        if (under_way != nullptr && priority == Priority::kDemand) hasten(*under_way, unit);
        if (under_way != nullptr) continue;
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

SnapshotSource::JobPtr SnapshotSource::next_job() {
  std::unique_lock lock(mutex_);
  const auto take = [](std::deque<JobPtr>& from) {
    JobPtr job = std::move(from.front());
    from.pop_front();
    return job;
  };
  for (;;) {
    if (stop_) return nullptr;
    if (!ready_.empty() && ready_.front()->priority == Priority::kDemand) return take(ready_);
    std::deque<JobPtr>* begin = nullptr;
    if (!demands_.empty() && !slots_.empty()) begin = &demands_;
    // The disk is kept busy before what it has brought is decoded.
    else if (!prefetches_.empty() && slots_.size() > kDemandSlots)
      begin = &prefetches_;
    if (begin != nullptr) {
      if (JobPtr job = begin_next(*begin)) return job;
    } else if (!ready_.empty()) {
      return take(ready_);
    } else {
      wake_.wait(lock);
    }
  }
}

// With mutex_ held. What was answered meanwhile, or is on its way by another job, is left out; null
// if that was all.
SnapshotSource::JobPtr SnapshotSource::begin_next(std::deque<JobPtr>& from) {
  JobPtr job = std::move(from.front());
  from.pop_front();
  std::erase_if(job->members, [&](const Member& member) {
    const auto at = wanted_.find(member.unit);
    if (at == wanted_.end()) return true;
    Job* const other = std::exchange(at->second, job.get());
    if (other == nullptr) return false;
    at->second = other;
    if (job->priority == Priority::kDemand) hasten(*other, member.unit);
    return true;
  });
  if (job->members.empty()) return nullptr;
  job->slot = slots_.back();
  slots_.pop_back();
  return job;
}

// With mutex_ held: a job that has begun goes before others, and in it this unit.
void SnapshotSource::hasten(Job& job, std::uint64_t unit) {
  job.urgent.push_back(unit);
  job.priority = Priority::kDemand;
  const auto at = std::ranges::find(ready_, &job, &JobPtr::get);
  if (at != ready_.end()) std::rotate(ready_.begin(), at, at + 1);
}

// A member that somebody waits for becomes the next, if there is one.
void SnapshotSource::bring_forward(Job& job, std::size_t next) {
  const std::lock_guard lock(mutex_);
  const auto rest = std::span(job.members).subspan(next);
  while (!job.urgent.empty()) {
    const auto at = std::ranges::find(rest, job.urgent.back(), &Member::unit);
    job.urgent.pop_back();
    if (at != rest.end()) return std::swap(*at, rest.front());
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
        const auto wanted = wanted_.find(member.unit);
        if (wanted != wanted_.end() && wanted->second == job.get()) wanted->second = nullptr;
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
  for (std::size_t next = 0; next < job->members.size(); ++next) {
    bring_forward(*job, next);
    const Member member = job->members[next];
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

}  // namespace volt::snapshot
