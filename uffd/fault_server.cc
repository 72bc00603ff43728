#include "uffd/fault_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

namespace volt::uffd {
namespace {

constexpr std::size_t kMessagesAtOnce = 16;
constexpr std::uint64_t kPageBytes = 4096;

// The host range that shows `unit` in `view`, empty if it does not.
std::span<std::byte> range_of(const View& view, std::uint64_t unit, std::uint64_t unit_bytes) {
  const std::uint64_t offset = unit * unit_bytes;
  if (offset < view.image_offset || offset - view.image_offset >= view.host.size()) return {};
  return view.host.subspan(offset - view.image_offset, unit_bytes);
}

}  // namespace

FaultServer::FaultServer(SharedImage image, std::unique_ptr<PageSource> source, Fd wake_up)
    : image_(std::move(image)), source_(std::move(source)), wake_up_(std::move(wake_up)) {}

Result<std::unique_ptr<FaultServer>> FaultServer::start(SharedImage image,
                                                        std::unique_ptr<PageSource> source) {
  Fd wake_up{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!wake_up.valid()) return sys_error("eventfd");
  std::unique_ptr<FaultServer> server(
      new FaultServer(std::move(image), std::move(source), std::move(wake_up)));
  // Signals are for the threads that run guests.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  server->thread_ = std::thread([raw = server.get()] { raw->serve(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return server;
}

FaultServer::~FaultServer() {
  stop_ = true;
  poke();
  if (thread_.joinable()) thread_.join();
  source_.reset();  // while all that its last answers need is still there
}

void FaultServer::poke() const {
  const std::uint64_t one = 1;
  // A full counter means that the thread has been told already.
  [[maybe_unused]] const ssize_t put = ::write(wake_up_.get(), &one, sizeof one);
}

Result<std::uint64_t> FaultServer::attach(Userfaultfd uffd, std::vector<View> views) {
  const std::uint64_t bytes = image_.units() * image_.unit_bytes();
  for (const View& view : views) {
    const bool aligned =
        view.image_offset % image_.unit_bytes() == 0 && view.host.size() % image_.unit_bytes() == 0;
    if (!aligned || view.image_offset > bytes || view.host.size() > bytes - view.image_offset) {
      return fail(Code::kInvalid, "a view that is not made of whole units of the image");
    }
  }
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = next_id_++;
  clones_.push_back(std::make_unique<Clone>(Clone{id, std::move(uffd), std::move(views)}));
  poke();
  return id;
}

void FaultServer::detach(std::uint64_t clone) {
  const std::lock_guard lock(mutex_);
  std::erase_if(clones_, [clone](const auto& each) { return each->id == clone; });
  poke();
}

std::optional<Error> FaultServer::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

FaultCounts FaultServer::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void FaultServer::note_failure(Error why) {
  if (!failure_) failure_ = std::move(why);
}

void FaultServer::serve() {
  std::vector<pollfd> polled;
  while (!stop_) {
    {
      const std::lock_guard lock(mutex_);
      polled.assign(1, {.fd = wake_up_.get(), .events = POLLIN, .revents = 0});
      for (const auto& clone : clones_) {
        polled.push_back({.fd = clone->uffd.fd(), .events = POLLIN, .revents = 0});
      }
    }
    if (::poll(polled.data(), polled.size(), -1) < 0) continue;  // EINTR; nothing else can be
    if (polled[0].revents != 0) {
      std::uint64_t told;
      [[maybe_unused]] const ssize_t got = ::read(wake_up_.get(), &told, sizeof told);
    }
    const std::lock_guard lock(mutex_);
    for (const auto& clone : clones_) drain(*clone);
  }
}

void FaultServer::drain(Clone& clone) {
  std::array<uffd_msg, kMessagesAtOnce> messages;
  for (;;) {
    const Result<std::size_t> count = clone.uffd.read_messages(messages);
    if (!count) return note_failure(count.error());
    for (std::size_t i = 0; i < *count; ++i) {
      if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
        on_fault(clone, messages[i].arg.pagefault.address);
      }
    }
    if (*count < messages.size()) return;
  }
}

void FaultServer::on_fault(Clone& clone, std::uint64_t address) {
  ++counts_.faults;
  for (const View& view : clone.views) {
    const std::uint64_t base = reinterpret_cast<std::uintptr_t>(view.host.data());
    if (address < base || address - base >= view.host.size()) continue;
    const std::uint64_t unit = (view.image_offset + (address - base)) / image_.unit_bytes();
    switch (image_.state(unit)) {
      case SharedImage::UnitState::kAbsent: {
        image_.set_state(unit, SharedImage::UnitState::kRequested);
        const UnitRange wanted[1] = {{.first = unit, .count = 1}};
        source_->request(wanted, Priority::kDemand, *this);
        return;
      }
      case SharedImage::UnitState::kRequested:
        return;  // the answer wakes this one too
      case SharedImage::UnitState::kPresent:
        ++counts_.woken_only;
        return wake_unit(unit);
      case SharedImage::UnitState::kFailed:
        return forbid_unit(unit);
    }
  }
  // Only views are registered, so this cannot be; if it is, the thread must not sleep for ever.
  note_failure({Code::kSystem, 0, "a fault outside every view of its clone"});
  std::byte* const page = reinterpret_cast<std::byte*>(address & ~(kPageBytes - 1));
  ::mprotect(page, kPageBytes, PROT_NONE);
  if (Result<> woken = clone.uffd.wake({page, kPageBytes}); !woken) note_failure(woken.error());
}

void FaultServer::filled(std::uint64_t unit, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (Result<> put = image_.fill(unit, bytes); !put) return failed(unit, put.error());
  ++counts_.units_filled;
  wake_unit(unit);
}

void FaultServer::failed(std::uint64_t unit, Error why) {
  const std::lock_guard lock(mutex_);
  ++counts_.units_failed;
  image_.set_state(unit, SharedImage::UnitState::kFailed);
  note_failure(std::move(why));
  forbid_unit(unit);
}

void FaultServer::wake_unit(std::uint64_t unit) {
  for (const auto& clone : clones_) {
    for (const View& view : clone->views) {
      const std::span<std::byte> range = range_of(view, unit, image_.unit_bytes());
      if (range.empty()) continue;
      if (Result<> woken = clone->uffd.wake(range); !woken) note_failure(woken.error());
    }
  }
}

void FaultServer::forbid_unit(std::uint64_t unit) {
  for (const auto& clone : clones_) {
    for (const View& view : clone->views) {
      const std::span<std::byte> range = range_of(view, unit, image_.unit_bytes());
      if (range.empty()) continue;
      if (::mprotect(range.data(), range.size(), PROT_NONE) != 0) {
        note_failure(sys_error("mprotect of a lost unit").error());
      }
    }
  }
  wake_unit(unit);
}

}  // namespace volt::uffd
