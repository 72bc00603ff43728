#include "vmm/pc/agent_link.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <iterator>

namespace volt::pc {

Result<std::unique_ptr<AgentLink>> AgentLink::create(virtio::Vsock& vsock, int machine_ended) {
  auto calls = std::make_shared<Calls>();
  calls->event = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!calls->event.valid()) return sys_error("eventfd");
  vsock.listen(agent_abi::kPort, [calls](Fd socket) {
    const std::lock_guard lock(calls->mutex);
    calls->last = std::move(socket);
    ::eventfd_write(calls->event.get(), 1);
  });
  return std::unique_ptr<AgentLink>(new AgentLink(vsock, machine_ended, std::move(calls)));
}

Fd AgentLink::take_call() {
  const std::lock_guard lock(calls_->mutex);
  eventfd_t count;
  ::eventfd_read(calls_->event.get(), &count);
  return std::move(calls_->last);
}

Result<agent_abi::Ready> AgentLink::wait_until_ready(vmm::Deadline deadline) {
  for (;;) {
    VOLT_TRY(vmm::check_stop());
    if (deadline.passed()) return fail(Code::kDeadline, "the guest was not ready in time");
    pollfd watched[] = {{calls_->event.get(), POLLIN, 0}, {machine_ended_, POLLIN, 0}};
    const int ready = ::poll(watched, std::size(watched), deadline.poll_ms());
    if (ready < 0 && errno != EINTR) return sys_error("poll");
    if (ready <= 0) continue;
    if (watched[1].revents != 0) {
      return fail(Code::kGuestCrashed, "the guest ended before it was ready");
    }
    Fd caller = take_call();
    if (caller.valid()) {
      return vmm::receive_ready({std::move(caller), machine_ended_}, deadline);
    }
  }
}

Result<vmm::AgentConnection> AgentLink::connect() {
  Fd stream = VOLT_TRY(vsock_->connect(agent_abi::kPort));
  return vmm::AgentConnection{std::move(stream), machine_ended_};
}

}  // namespace volt::pc
