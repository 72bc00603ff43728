// The host's side of the exchange window. Every word the guest can write is copied once and then
// checked; nothing is read from the window twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/guest_abi.h"
#include "vmm/os/error.h"
#include "vmm/os/mapping.h"

namespace volt::vmm {

// A guest's answer, checked and copied out of its reach.
struct Reply {
  guest_abi::Status status;
  std::uint64_t checksum;
  std::uint64_t words;
  std::vector<std::byte> data;
};

// Something the guest asks of the host.
struct GuestCall {
  guest_abi::HostFunction function;
  std::vector<std::byte> data;
};

// How the guest shall answer a request, and how long it then spins for the next one before PARK.
struct Answering {
  bool want_kick = false;
  std::uint32_t spin_tsc = 0;
};

class Exchange {
 public:
  static Result<Exchange> create();

  std::span<std::byte> memory() const { return window_.bytes(); }

  void set_boot(const guest_abi::BootConfig& config);
  void set_identity(const guest_abi::Identity& identity);
  const guest_abi::Identity& identity() const { return identity_; }
  // The clocks of a later moment, for a guest that has not looked at its identity yet.
  void set_clocks(std::uint64_t wall_ns, std::uint64_t mono_ns);
  // Whether the guest says that it took over the identity it was given last.
  bool identity_adopted() const;

  // Writes a request; the guest sees it when it runs. kInvalid if the arguments do not fit.
  Result<> send(guest_abi::Function function, std::span<const std::byte> arguments,
                const Answering& how);
  // Whether the response to the last request is there.
  bool answered() const;
  // That response. kGuestCrashed with the reason if it makes no sense.
  Result<Reply> receive() const;

  Result<GuestCall> host_call() const;
  void reply_to_host_call(std::span<const std::byte> data);  // at most 60 bytes

  guest_abi::ReadyInfo ready_info() const;

 private:
  explicit Exchange(Mapping window) : window_(std::move(window)) {}
  guest_abi::ControlPage& page() const {
    return *reinterpret_cast<guest_abi::ControlPage*>(window_.data());
  }
  Result<std::vector<std::byte>> copy_out(std::uint32_t offset, std::uint32_t bytes,
                                          const char* what) const;

  Mapping window_;
  guest_abi::Identity identity_ =
      {};  // as last given; the window's copy is the guest's to scribble on
  std::uint32_t seq_ = 0;
};

}  // namespace volt::vmm
