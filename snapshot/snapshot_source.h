// The page source of a snapshot, however its memory is stored.
//
// A demand whose bytes are in the page cache is answered at once, on the thread that asks: that is
// quicker than any hand-over. Everything else goes to worker threads: they take demands before
// prefetches (one for a unit that is on its way hurries that, and reads nothing again), read what
// is in the page cache themselves, and give the rest to an asynchronous reader, past the page cache
// (which would only keep a second copy of what the image holds). Units that lie side by side in a
// file are read as one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "snapshot/opened.h"
#include "snapshot/unit_reader.h"
#include "uffd/page_source.h"
#include "vmm/os/async_reader.h"
#include "vmm/os/mapping.h"

namespace volt::snapshot {

struct SourceOptions {
  unsigned threads = 0;  // that decode; 0: one for each processor
  AsyncReader::Engine engine = AsyncReader::Engine::kIoUring;
  bool direct = true;  // cold reads go past the page cache, where the file system can
};

struct SourceCounts {
  std::uint64_t units_read = 0;      // from a file
  std::uint64_t bytes_read = 0;      // as stored
  std::uint64_t cold_reads = 0;      // that the page cache could not answer
  std::uint64_t units_decoded = 0;   // of those read, compressed ones
  std::uint64_t units_verified = 0;  // whose sums were right
  std::uint64_t units_zero = 0;      // that no file holds
  std::uint64_t units_wasted = 0;    // read, and answered already by another read
};

class SnapshotSource final : public uffd::PageSource {
 public:
  // `snapshot` was opened with its whole index. Units count from the start of the memory file.
  explicit SnapshotSource(std::shared_ptr<const OpenedSnapshot> snapshot,
                          const SourceOptions& options = {});
  ~SnapshotSource() override;

  void request(std::span<const uffd::UnitRange> units, uffd::Priority priority,
               uffd::UnitSink& done) override;

  SourceCounts counts() const {
    return {.units_read = units_read_,
            .bytes_read = bytes_read_,
            .cold_reads = cold_reads_,
            .units_decoded = decoded_,
            .units_verified = verified_,
            .units_zero = zero_,
            .units_wasted = wasted_};
  }
  // What answers cold reads; nullptr until there was one.
  const char* engine() const {
    const std::lock_guard lock(mutex_);
    return reader_ == nullptr ? nullptr : engine_name(reader_->engine()).data();
  }

 private:
  struct Member {
    std::uint64_t unit;    // of the image
    std::uint64_t entry;   // of the index
    std::uint64_t offset;  // in the file
    std::uint32_t bytes;
  };
  // Units that one read brings.
  struct Job {
    uffd::Priority priority;
    uffd::UnitSink* done;
    std::size_t file;
    std::vector<Member> members;             // ascending by offset, close together
    std::vector<std::uint64_t> urgent = {};  // units of it that somebody waits for by now
    // Once there is a slot: where the read begins in the file, and what came.
    std::size_t slot = 0;
    std::uint64_t from = 0;
    std::size_t got = 0;
    bool read = false;
    std::uint64_t end() const { return members.back().offset + members.back().bytes; }
  };
  using JobPtr = std::unique_ptr<Job>;

  // A buffer and a decoder for the thread that has taken it.
  struct Desk {
    explicit Desk(const OpenedSnapshot& snapshot);
    UnitReader reader;
    std::vector<std::byte> stored;
    std::vector<std::byte> unit;
  };
  using DeskPtr = std::unique_ptr<Desk>;
  DeskPtr take_desk();
  void give_back(DeskPtr desk);

  struct Located {
    std::size_t file;
    Member member;
  };
  // Of an image unit; nullopt where it is zero.
  Result<std::optional<Located>> locate(std::uint64_t unit) const;
  bool serve_at_once(const Located& wanted, uffd::UnitSink& done);
  void enqueue(std::vector<Located>& wanted, uffd::Priority priority, uffd::UnitSink& done);

  void start_workers();
  void work();
  JobPtr next_job();
  JobPtr begin_next(std::deque<JobPtr>& from);
  void hasten(Job& job, std::uint64_t unit);
  void bring_forward(Job& job, std::size_t next);
  void begin_read(JobPtr job);
  void on_read(std::uint64_t cookie, const Result<std::size_t>& got);
  void finish(JobPtr job, Desk& desk);
  void fail_member(const Job& job, const Member& member, const Error& why);
  void free_slot(std::size_t slot);
  bool claim(std::uint64_t unit);
  void answer(const Member& member, std::span<const std::byte> stored, Desk& desk,
              uffd::UnitSink& done);
  std::span<std::byte> slot_bytes(std::size_t slot) const {
    return pool_->bytes().subspan(slot * slot_size_, slot_size_);
  }

  const std::shared_ptr<const OpenedSnapshot> snapshot_;
  const SourceOptions options_;
  const std::vector<std::byte> zeros_;
  const std::size_t slot_size_;                   // a read, and the ends that alignment adds
  std::vector<int> files_;                        // as numbered in a Job
  std::vector<std::unique_ptr<Mapping>> mapped_;  // each of them, to ask the page cache; or null

  std::atomic<std::uint64_t> units_read_ = 0, bytes_read_ = 0, cold_reads_ = 0, decoded_ = 0,
                             verified_ = 0, zero_ = 0, wasted_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<DeskPtr> desks_;  // not in use
  std::deque<JobPtr> ready_;    // read, to be decoded; demands in front
  std::deque<JobPtr> demands_;
  std::deque<JobPtr> prefetches_;
  std::unordered_map<std::uint64_t, JobPtr> reading_;  // by cookie
  // Units asked for and not answered; the job that brings each, once one has begun.
  std::unordered_map<std::uint64_t, Job*> wanted_;
  std::vector<std::size_t> slots_;  // free
  std::uint64_t next_cookie_ = 1;
  bool stop_ = false;

  // Made with the first job.
  std::unique_ptr<Mapping> pool_;
  std::vector<Fd> direct_files_;
  std::unique_ptr<AsyncReader> reader_;
  std::vector<std::jthread> workers_;
};

}  // namespace volt::snapshot
