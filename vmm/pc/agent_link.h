// The way to a guest's agent: learns when the guest is ready, and opens sessions with it that end
// when the machine does.
#pragma once

#include <memory>
#include <mutex>

#include "vmm/agent_client.h"
#include "vmm/virtio/vsock.h"

namespace volt::pc {

class AgentLink {
 public:
  // Both must outlive it. `machine_ended` is readable from the moment the machine has ended.
  static Result<std::unique_ptr<AgentLink>> create(virtio::Vsock& vsock, int machine_ended);

  // Until the guest says that it is ready.
  Result<agent_abi::Ready> wait_until_ready(vmm::Deadline deadline);
  // A session's stream.
  Result<vmm::AgentConnection> connect();

 private:
  // Outlives the link, since the device's thread may be about to bring something.
  struct Calls {
    std::mutex mutex;
    Fd last;  // a guest has no reason to call twice; one that does all the same keeps one
    Fd event;
  };
  AgentLink(virtio::Vsock& vsock, int machine_ended, std::shared_ptr<Calls> calls)
      : vsock_(&vsock), machine_ended_(machine_ended), calls_(std::move(calls)) {}
  Fd take_call();

  virtio::Vsock* vsock_;
  int machine_ended_;
  std::shared_ptr<Calls> calls_;
};

}  // namespace volt::pc
