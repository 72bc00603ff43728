// The guest's life: boot once under Volt or under another VMM, or resume from a snapshot; then
// serve.
#include <cstddef>
#include <cstdint>

#include "tools/guest/micro/entry.h"
#include "tools/guest/micro/foreign.h"
#include "tools/guest/micro/functions.h"
#include "tools/guest/micro/guest.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"

namespace volt::guest {
namespace {

using guest_abi::ControlPage;
using guest_abi::Request;
using guest_abi::Response;
using guest_abi::Workload;

constinit Guest the_guest = {};

[[noreturn]] void exit_to_host(guest_abi::ExitCode code) {
  for (;;) out32(guest_abi::kPortExit, static_cast<std::uint32_t>(code));
}

[[gnu::hot]] bool is_adopted(const Guest& guest) {
  const guest_abi::Identity& identity = guest.page->identity;
  return identity.generation[0] == guest.generation[0] &&
         identity.generation[1] == guest.generation[1];
}

[[gnu::hot]] std::uint32_t wait_for_request(const Request& request, std::uint32_t last) {
  for (;;) {
    const std::uint64_t start = read_tsc();
    do {
      const std::uint32_t seq = __atomic_load_n(&request.seq, __ATOMIC_ACQUIRE);
      if (seq != last) return seq;
      pause();
    } while (read_tsc() - start < __atomic_load_n(&request.spin_tsc, __ATOMIC_RELAXED));
    out32(guest_abi::kPortPark, 0);
  }
}

[[noreturn]] void boot_under_volt(Guest& guest, std::uint64_t window) {
  guest.page = at_address<ControlPage>(window);
  guest.window_bytes = guest_abi::kWindowBytes;
  guest.has_host = true;
  adopt_identity(guest);
  const guest_abi::BootConfig boot = guest.page->boot;
  if (!start_workload(guest, boot)) exit_to_host(guest_abi::ExitCode::kBadBootConfig);
  guest.page->ready.working_set_base = kWorkingSetBase;
  guest.page->ready.working_set_bytes = guest.set.pages() * guest_abi::kPageBytes;
  out32(guest_abi::kPortReady, 0);
  // A host that captured the guest here may have made it another VM since.
  if (!is_adopted(guest)) adopt_identity(guest);
  serve(guest);
}

}  // namespace

bool start_workload(Guest& guest, const guest_abi::BootConfig& boot) {
  const bool known = boot.workload == Workload::kEcho || boot.workload == Workload::kKv;
  const bool ram_fits =
      boot.ram_bytes >= kWorkingSetBase && boot.ram_bytes <= guest_abi::kMaxRamBytes;
  if (boot.abi != guest_abi::kVersion || !known || !ram_fits) return false;
  if (boot.working_set_bytes % guest_abi::kPageBytes != 0) return false;
  if (boot.working_set_bytes > boot.ram_bytes - kWorkingSetBase) return false;
  const bool is_echo = boot.workload == Workload::kEcho;
  guest.workload = boot.workload;
  guest.ram_bytes = boot.ram_bytes;
  guest.set.fill(is_echo ? 0 : boot.working_set_bytes / guest_abi::kPageBytes, boot.seed);
  return true;
}

[[gnu::hot]] void adopt_identity(Guest& guest) {
  const std::uint64_t tsc = read_tsc();
  const guest_abi::Identity& identity = guest.page->identity;
  guest.clock.anchor(tsc, identity);
  guest.generator.mix(identity.entropy);
  Response& response = guest.page->response;
  for (int i = 0; i < 2; ++i) {
    guest.generation[i] = identity.generation[i];
    response.acknowledged_generation[i] = guest.generation[i];
  }
}

[[gnu::hot]] void serve(Guest& guest) {
  Response& response = guest.page->response;
  std::uint32_t seq = 0;
  for (;;) {
    seq = wait_for_request(guest.page->request, seq);
    const Request request = guest.page->request;
    const Outcome outcome = call_function(guest, request);
    response.status = outcome.status;
    response.offset = outcome.offset;
    response.bytes = outcome.bytes;
    __atomic_store_n(&response.seq, seq, __ATOMIC_RELEASE);
    if (request.want_kick != 0) {
      // The host may be looking at `seq` from another core already.
      __atomic_thread_fence(__ATOMIC_SEQ_CST);
      out32(guest_abi::kPortKick, 0);
    } else {
      out32(guest_abi::kPortDone, 0);
    }
  }
}

}  // namespace volt::guest

void guest_boot(std::uint64_t argument, std::uint64_t booted_by) {
  using namespace volt::guest;
  if (booted_by == volt::guest_abi::kBootedByVolt) boot_under_volt(the_guest, argument);
  run_foreign(the_guest, argument);
}

[[gnu::hot]] void guest_resume(std::uint64_t window) {
  using namespace volt::guest;
  the_guest.page = at_address<volt::guest_abi::ControlPage>(window);
  adopt_identity(the_guest);
  serve(the_guest);
}
