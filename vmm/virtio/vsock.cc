#include "vmm/virtio/vsock.h"

#include <linux/virtio_ids.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include <array>
#include <csignal>
#include <cstring>
#include <mutex>

namespace volt::virtio {
namespace {

constexpr std::uint64_t kWakeUpKey = 0;
constexpr std::size_t kEventsAtOnce = 64;
constexpr std::uint16_t kEventQueue = 16;

// Signals are for the threads that run guests, but for those that a thread earns by itself.
sigset_t signals_of_others() {
  sigset_t set;
  ::sigfillset(&set);
  for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) ::sigdelset(&set, own);
  return set;
}

}  // namespace

Vsock::Vsock(std::unique_ptr<VsockMux> mux, Fd wake_up)
    : mux_(std::move(mux)), wake_up_(std::move(wake_up)) {
  encode_config();
}

Result<std::unique_ptr<Vsock>> Vsock::create(VsockOptions options) {
  std::uint32_t first_port = 0;
  if (::getrandom(&first_port, sizeof first_port, 0) != sizeof first_port) {
    return sys_error("getrandom");
  }
  std::unique_ptr<VsockMux> mux = VOLT_TRY(VsockMux::create(std::move(options), first_port));
  Fd wake_up(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_up.valid()) return sys_error("eventfd");
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = kWakeUpKey;
  if (::epoll_ctl(mux->epoll().get(), EPOLL_CTL_ADD, wake_up.get(), &event) != 0) {
    return sys_error("epoll_ctl");
  }
  return std::unique_ptr<Vsock>(new Vsock(std::move(mux), std::move(wake_up)));
}

Vsock::~Vsock() {
  stop_ = true;
  poke();
  if (thread_.joinable()) thread_.join();
}

Backend::Kind Vsock::kind() const {
  return {.device_id = VIRTIO_ID_VSOCK, .features = 0, .queue_sizes = {256, 256, kEventQueue}};
}

Result<> Vsock::attach(Port& port) {
  port_ = &port;
  const sigset_t others = signals_of_others();
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, &others, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return {};
}

void Vsock::encode_config() {
  const std::uint64_t cid = mux_->guest_cid();
  static_assert(sizeof(virtio_vsock_config) == sizeof cid);
  std::memcpy(config_.data(), &cid, sizeof cid);
}

void Vsock::poke() const {
  // A full counter means that the thread has been told already.
  static_cast<void>(::eventfd_write(wake_up_.get(), 1));
}

void Vsock::activated() {
  mux_->set_open(true);
}

void Vsock::reset() {
  mux_->set_open(false);
}

Result<> Vsock::notified(std::size_t /*queue*/) {
  poke();
  return {};
}

Result<Fd> Vsock::connect(std::uint32_t guest_port) {
  const std::lock_guard lock(port_->mutex());
  Fd socket = VOLT_TRY(mux_->connect(guest_port));
  poke();
  return socket;
}

void Vsock::listen(std::uint32_t port, VsockHandler handler) {
  const std::lock_guard lock(port_->mutex());
  mux_->listen(port, std::move(handler));
}

void Vsock::transport_reset() {
  const std::lock_guard lock(port_->mutex());
  mux_->announce_reset();
  poke();
}

Result<> Vsock::set_guest_cid(std::uint32_t cid) {
  VOLT_TRY(VsockMux::check_cid(cid));
  const std::lock_guard lock(port_->mutex());
  if (cid == mux_->guest_cid()) return {};
  mux_->set_guest_cid(cid);
  encode_config();
  port_->config_changed();
  return {};
}

VsockState Vsock::save() {
  const std::lock_guard lock(port_->mutex());
  return {.guest_cid = mux_->guest_cid(), .unseen = mux_->unseen()};
}

Result<> Vsock::load(const VsockState& state) {
  if (state.unseen.resets > kEventQueue) return fail(Code::kInvalid, "vsock: resets");
  VOLT_TRY(set_guest_cid(state.guest_cid));
  const std::lock_guard lock(port_->mutex());
  mux_->set_unseen(state.unseen);
  return {};
}

void Vsock::run() {
  std::array<epoll_event, kEventsAtOnce> events;
  bool busy = false;
  while (!stop_) {
    const int count = ::epoll_wait(mux_->epoll().get(), events.data(),
                                   static_cast<int>(events.size()), busy ? 0 : -1);
    std::vector<VsockMux::Handover> handovers;
    {
      const std::lock_guard lock(port_->mutex());
      for (int i = 0; i < count; ++i) {  // -1: EINTR; nothing else can be
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        eventfd_t told;
        if (event.data.u64 != kWakeUpKey)
          mux_->on_event(event.data.u64, event.events);
        else
          static_cast<void>(::eventfd_read(wake_up_.get(), &told));
      }
      const Result<bool> worked = mux_->work(*port_);
      busy = worked.value_or(false);
      if (!worked) {
        port_->failed(worked.error());
        mux_->set_open(false);  // until a driver begins anew
      }
      handovers = mux_->take_handovers();
    }
    for (VsockMux::Handover& each : handovers) each.handler(std::move(each.socket));
  }
}

}  // namespace volt::virtio
