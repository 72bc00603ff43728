#include "vmm/exchange.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "vmm/guest_memory.h"

namespace volt::vmm {
namespace {

// Copies a struct out of memory that the guest may be changing, so that what is checked is what is
// used. The fence keeps the compiler from reading the source again afterwards.
template <typename T>
T copy_once(const T& shared) {
  T copy;
  std::memcpy(&copy, &shared, sizeof copy);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  asm volatile("" : "+m"(copy));
  return copy;
}

std::uint32_t load_acquire(const std::uint32_t& shared) {
  return __atomic_load_n(&shared, __ATOMIC_ACQUIRE);
}

}  // namespace

Result<Exchange> Exchange::create() {
  Mapping window = VOLT_TRY(GuestMemory::reserve(guest_abi::kWindowBytes));
  // One word written must not cost 2 MiB. EINVAL: a kernel without huge pages.
  if (::madvise(window.data(), window.size(), MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return sys_error("madvise window");
  }
  return Exchange(std::move(window));
}

void Exchange::set_boot(const guest_abi::BootConfig& config) {
  page().boot = config;
}

void Exchange::set_identity(const guest_abi::Identity& identity) {
  identity_ = identity;
  page().identity = identity;
}

void Exchange::set_clocks(std::uint64_t wall_ns, std::uint64_t mono_ns) {
  identity_.wall_ns = wall_ns;
  identity_.mono_ns = mono_ns;
  page().identity = identity_;
}

bool Exchange::identity_adopted() const {
  const guest_abi::Response response = copy_once(page().response);
  return std::memcmp(response.acknowledged_generation, identity_.generation,
                     sizeof identity_.generation) == 0;
}

Result<> Exchange::send(guest_abi::Function function, std::span<const std::byte> arguments,
                        const Answering& how) {
  using namespace guest_abi;
  if (arguments.size() > kRequestAreaBytes) {
    return fail(Code::kInvalid, "arguments of " + std::to_string(arguments.size()) +
                                    " bytes, at most " + std::to_string(kRequestAreaBytes));
  }
  const bool fits_inline = arguments.size() <= kInlineBytes;
  const std::uint32_t offset =
      fits_inline ? std::uint32_t{offsetof(ControlPage, inline_request)} : kRequestArea;
  if (!arguments.empty()) {
    std::memcpy(window_.data() + offset, arguments.data(), arguments.size());
  }
  Request& request = page().request;
  request.function = function;
  request.offset = offset;
  request.bytes = static_cast<std::uint32_t>(arguments.size());
  request.spin_tsc = how.spin_tsc;
  request.want_kick = how.want_kick ? 1 : 0;
  if (++seq_ == 0) ++seq_;  // 0 means none
  __atomic_store_n(&request.seq, seq_, __ATOMIC_RELEASE);
  return {};
}

bool Exchange::answered() const {
  return seq_ != 0 && load_acquire(page().response.seq) == seq_;
}

Result<std::vector<std::byte>> Exchange::copy_out(std::uint32_t offset, std::uint32_t bytes,
                                                  const char* what) const {
  if (offset > window_.size() || bytes > window_.size() - offset) {
    return fail(Code::kGuestCrashed, std::string(what) + ": " + std::to_string(bytes) +
                                         " bytes at " + std::to_string(offset) +
                                         " reach outside the exchange window");
  }
  const std::byte* from = window_.data() + offset;
  return std::vector(from, from + bytes);
}

Result<Reply> Exchange::receive() const {
  if (!answered()) {
    return fail(Code::kGuestCrashed, "the guest rang that it is done without a response");
  }
  const guest_abi::Response response = copy_once(page().response);
  if (response.status > guest_abi::Status::kBadArguments) {
    return fail(
        Code::kGuestCrashed,
        "response: unknown status " + std::to_string(static_cast<std::uint32_t>(response.status)));
  }
  Reply reply = {.status = response.status,
                 .checksum = 0,
                 .words = 0,
                 .data = VOLT_TRY(copy_out(response.offset, response.bytes, "response"))};
  guest_abi::ReplyHead head;
  if (reply.data.size() < sizeof head) {
    return fail(Code::kGuestCrashed, "response: shorter than its head");
  }
  std::memcpy(&head, reply.data.data(), sizeof head);
  reply.checksum = head.checksum;
  reply.words = head.words;
  reply.data.erase(reply.data.begin(), reply.data.begin() + sizeof head);
  return reply;
}

Result<GuestCall> Exchange::host_call() const {
  const guest_abi::HostCall call = copy_once(page().call);
  if (call.bytes > guest_abi::kInlineBytes) {
    return fail(Code::kGuestCrashed, "host call: " + std::to_string(call.bytes) +
                                         " bytes, at most " +
                                         std::to_string(guest_abi::kInlineBytes));
  }
  return GuestCall{call.function, VOLT_TRY(copy_out(call.offset, call.bytes, "host call"))};
}

void Exchange::reply_to_host_call(std::span<const std::byte> data) {
  guest_abi::HostReply reply = {};
  reply.bytes = static_cast<std::uint32_t>(std::min(data.size(), sizeof reply.data));
  std::copy_n(data.begin(), reply.bytes, reinterpret_cast<std::byte*>(reply.data));
  page().reply = reply;
}

guest_abi::ReadyInfo Exchange::ready_info() const {
  return copy_once(page().ready);
}

}  // namespace volt::vmm
