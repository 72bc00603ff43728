#include "vmm/call.h"

#include <sys/random.h>

#include <cstring>

#include "vmm/identity.h"

namespace volt::vmm {

Result<> serve_host_call(Machine& machine, const HostServices& services) {
  const GuestCall call = VOLT_TRY(machine.exchange().host_call());
  switch (call.function) {
    case guest_abi::HostFunction::kLog:
      services.log({reinterpret_cast<const char*>(call.data.data()), call.data.size()});
      machine.exchange().reply_to_host_call({});
      return {};
    case guest_abi::HostFunction::kNow: {
      const std::uint64_t now[1] = {wall_clock_ns()};
      machine.exchange().reply_to_host_call(std::as_bytes(std::span(now)));
      return {};
    }
    case guest_abi::HostFunction::kRandom: {
      std::byte random[32];
      if (::getrandom(random, sizeof random, 0) != sizeof random) return sys_error("getrandom");
      machine.exchange().reply_to_host_call(random);
      return {};
    }
  }
  return fail(Code::kGuestCrashed, "host call: unknown function " +
                                       std::to_string(static_cast<std::uint32_t>(call.function)));
}

Result<> begin_call(Machine& machine, const Call& call) {
  return machine.exchange().send(call.function, call.arguments, {});
}

Result<Reply> finish_call(Machine& machine, Deadline deadline, const HostServices& services) {
  for (;;) {
    const Doorbell doorbell = VOLT_TRY(machine.run(deadline));
    switch (doorbell.kind) {
      case Doorbell::Kind::kDone:
        return machine.exchange().receive();
      case Doorbell::Kind::kHostCall:
        VOLT_TRY(serve_host_call(machine, services));
        break;
      case Doorbell::Kind::kReady:
      case Doorbell::Kind::kPark:  // it looks for a request again when it goes on
        break;
      case Doorbell::Kind::kExit:
        return fail(Code::kGuestCrashed,
                    "the guest ended itself with code " + std::to_string(doorbell.value));
    }
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not answer in time");
  }
}

Result<> check_status(const Reply& reply) {
  switch (reply.status) {
    case guest_abi::Status::kOk:
      return {};
    case guest_abi::Status::kUnknownFunction:
      return fail(Code::kInvalid, "the guest has no such function");
    case guest_abi::Status::kBadArguments:
      return fail(Code::kInvalid, "the guest refused the arguments");
  }
  return fail(Code::kGuestCrashed, "response: unknown status");
}

Result<Reply> call_guest(Machine& machine, const Call& call, Deadline deadline,
                         const HostServices& services) {
  VOLT_TRY(begin_call(machine, call));
  Reply reply = VOLT_TRY(finish_call(machine, deadline, services));
  VOLT_TRY(check_status(reply));
  return reply;
}

}  // namespace volt::vmm
