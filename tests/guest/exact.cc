// A guest without a resume entry: what a host captures of it must be everything. exact.S keeps its
// state in registers; here is how it starts and how it answers.
#include <cstddef>
#include <cstdint>

#include "tests/guest/exact_abi.h"
#include "tools/guest/micro/entry.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"

namespace {

using volt::exact::Function;
using volt::exact::Registers;
using volt::guest_abi::ControlPage;
using volt::guest_abi::ReplyHead;
using volt::guest_abi::Status;

constexpr int kSlopes = volt::exact::kVectorLine + 2 * volt::exact::kVectors;

struct alignas(16) Slopes {
  std::uint64_t of[kSlopes];
};

constexpr Slopes make_slopes() {
  Slopes slopes = {};
  for (int i = 0; i < kSlopes; ++i) slopes.of[i] = volt::exact::slope_of(i);
  return slopes;
}

// exact.S knows these offsets.
static_assert(offsetof(ControlPage, request.seq) == 192);
static_assert(offsetof(ControlPage, identity.generation) == 64);
static_assert(offsetof(ControlPage, response.acknowledged_generation) == 336);
static_assert(volt::exact::kVectorLine * sizeof(std::uint64_t) == 96);

constexpr std::uint64_t kWorkingSetBase = 0x60'0000;

ControlPage& page() {
  return *volt::guest::at_address<ControlPage>(volt::guest_abi::kWindowBase);
}

}  // namespace

extern "C" {

extern const Slopes exact_slopes = make_slopes();
constinit Registers exact_registers = volt::exact::after(0);
constinit std::uint8_t exact_runs_on = 0;
constinit std::uint16_t exact_answer_port = 0;
constinit std::uint64_t exact_generation[2] = {};

[[noreturn]] void exact_run();

std::uint32_t exact_serve() {
  ControlPage& window = page();
  const std::uint32_t seq = __atomic_load_n(&window.request.seq, __ATOMIC_ACQUIRE);
  const Function function{static_cast<std::uint32_t>(window.request.function)};
  window.response.status = Status::kOk;
  if (function == Function::kOut) {
    volt::guest::out32(static_cast<std::uint16_t>(volt::guest::load_word(window.inline_request, 0)),
                       0);
  } else if (function == Function::kRegisters || function == Function::kRunOn) {
    exact_runs_on = function == Function::kRunOn ? 1 : 0;
  } else {
    window.response.status = Status::kUnknownFunction;
  }
  exact_answer_port =
      window.request.want_kick != 0 ? volt::guest_abi::kPortKick : volt::guest_abi::kPortDone;
  volt::guest_abi::Checksum sum;
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(&exact_registers);
  for (std::uint64_t i = 0; i < sizeof exact_registers / 8; ++i) {
    sum.add(volt::guest::load_word(bytes, i));
  }
  const ReplyHead head = {.checksum = sum.value(), .words = sum.words()};
  __builtin_memcpy(window.inline_response, &head, sizeof head);
  __builtin_memcpy(window.inline_response + sizeof head, &exact_registers, sizeof exact_registers);
  window.response.offset = offsetof(ControlPage, inline_response);
  window.response.bytes = sizeof head + sizeof exact_registers;
  __atomic_store_n(&window.response.seq, seq, __ATOMIC_RELEASE);
  return seq;
}

void guest_boot(std::uint64_t, std::uint64_t) {
  for (int i = 0; i < 2; ++i) {
    exact_generation[i] = page().identity.generation[i];
    page().response.acknowledged_generation[i] = exact_generation[i];
  }
  page().ready.working_set_base = kWorkingSetBase;
  page().ready.working_set_bytes = page().boot.working_set_bytes;
  volt::guest::out32(volt::guest_abi::kPortReady, 0);
  exact_run();
}

void guest_resume(std::uint64_t) {  // entry.S wants one; the note does not name it
  for (;;) volt::guest::out32(volt::guest_abi::kPortExit, 0);
}

}  // extern "C"
