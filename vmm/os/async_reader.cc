#include "vmm/os/async_reader.h"

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace volt {
namespace {

// No request's cookies.
constexpr std::uint64_t kStop = UINT64_MAX;
constexpr std::uint64_t kNobody = UINT64_MAX - 1;
// Blocking readers: what keeps a disk busy without costing much while it is idle.
constexpr unsigned kThreads = 8;

std::unexpected<Error> read_error(int code) {
  errno = code;
  return sys_error("read");
}

// Threads of a library: signals are for the threads that run guests.
std::jthread quiet_thread(std::function<void()> body) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::jthread thread(std::move(body));
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

class RingReader final : public AsyncReader {
 public:
  explicit RingReader(Done done) : done_(std::move(done)) {}

  ~RingReader() override {
    if (!thread_.joinable()) return;
    {
      std::unique_lock lock(mutex_);
      idle_.wait(lock, [&] { return under_way_ == 0; });
      io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
      ::io_uring_prep_nop(sqe);
      ::io_uring_sqe_set_data64(sqe, kStop);
      ::io_uring_submit(&ring_);
    }
    thread_.join();
    ::io_uring_queue_exit(&ring_);
  }

  // False: this kernel has no io_uring for us.
  bool start(std::span<const int> files, std::span<std::byte> pool, unsigned depth) {
    if (::io_uring_queue_init(depth + 1, &ring_, 0) != 0) return false;
    const auto count = static_cast<unsigned>(files.size());
    files_fixed_ = ::io_uring_register_files(&ring_, files.data(), count) == 0;
    // Pins the pool once, instead of each read pinning its part; refused where too little memory
    // may be locked.
    const iovec all = {.iov_base = pool.data(), .iov_len = pool.size()};
    buffers_fixed_ = ::io_uring_register_buffers(&ring_, &all, 1) == 0;
    files_.assign(files.begin(), files.end());
    thread_ = quiet_thread([this] { complete(); });
    return true;
  }

  Result<> submit(const Request& request) override {
    const std::lock_guard lock(mutex_);
    io_uring_sqe* const sqe = ::io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return fail(Code::kBusy, "more reads at once than were announced");
    const int file = files_fixed_ ? static_cast<int>(request.file) : files_[request.file];
    const auto bytes = static_cast<unsigned>(request.into.size());
    if (buffers_fixed_) {
      ::io_uring_prep_read_fixed(sqe, file, request.into.data(), bytes, request.offset, 0);
    } else {
      ::io_uring_prep_read(sqe, file, request.into.data(), bytes, request.offset);
    }
    if (files_fixed_) ::io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    ::io_uring_sqe_set_data64(sqe, request.cookie);
    int put;
    do {
      put = ::io_uring_submit(&ring_);
    } while (put == -EINTR || put == -EAGAIN || put == -EBUSY);
    if (put < 0) {
      // It stays in the queue, and goes with the next: it must not read into a buffer that is
      // somebody else's by then.
      ::io_uring_prep_nop(sqe);
      ::io_uring_sqe_set_data64(sqe, kNobody);
      return read_error(-put);
    }
    ++under_way_;
    return {};
  }

  Engine engine() const override { return Engine::kIoUring; }

 private:
  void complete() {
    for (;;) {
      io_uring_cqe* cqe = nullptr;
      if (::io_uring_wait_cqe(&ring_, &cqe) != 0) continue;  // EINTR; nothing else can be
      const std::uint64_t cookie = ::io_uring_cqe_get_data64(cqe);
      const int got = cqe->res;
      ::io_uring_cqe_seen(&ring_, cqe);
      if (cookie == kStop) return;
      if (cookie == kNobody) continue;
      done_(cookie, got < 0 ? Result<std::size_t>(read_error(-got))
                            : Result<std::size_t>(static_cast<std::size_t>(got)));
      const std::lock_guard lock(mutex_);
      if (--under_way_ == 0) idle_.notify_all();
    }
  }

  const Done done_;
  io_uring ring_ = {};
  bool files_fixed_ = false;
  bool buffers_fixed_ = false;
  std::vector<int> files_;
  std::mutex mutex_;  // submissions; completions have one thread
  std::condition_variable idle_;
  std::size_t under_way_ = 0;
  std::jthread thread_;
};

class ThreadReader final : public AsyncReader {
 public:
  ThreadReader(std::span<const int> files, unsigned depth, Done done)
      : files_(files.begin(), files.end()), done_(std::move(done)) {
    for (unsigned i = 0; i < std::min(depth, kThreads); ++i) {
      threads_.push_back(quiet_thread([this] { serve(); }));
    }
  }
  ~ThreadReader() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    threads_.clear();
  }

  Result<> submit(const Request& request) override {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(request);
    }
    wake_.notify_one();
    return {};
  }

  Engine engine() const override { return Engine::kThreads; }

 private:
  std::optional<Request> next() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return std::nullopt;
    const Request request = queue_.front();
    queue_.pop_front();
    return request;
  }

  void serve() {
    while (const std::optional<Request> request = next()) {
      ssize_t got;
      do {
        got = ::pread(files_[request->file], request->into.data(), request->into.size(),
                      static_cast<off_t>(request->offset));
      } while (got < 0 && errno == EINTR);
      done_(request->cookie, got < 0 ? Result<std::size_t>(read_error(errno))
                                     : Result<std::size_t>(static_cast<std::size_t>(got)));
    }
  }

  const std::vector<int> files_;
  const Done done_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> queue_;
  bool stop_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace

Result<std::unique_ptr<AsyncReader>> AsyncReader::create(Engine wanted, std::span<const int> files,
                                                         std::span<std::byte> pool, unsigned depth,
                                                         Done done) {
  if (wanted == Engine::kIoUring) {
    auto ring = std::make_unique<RingReader>(done);
    if (ring->start(files, pool, depth)) return ring;
  }
  return std::make_unique<ThreadReader>(files, depth, std::move(done));
}

}  // namespace volt
