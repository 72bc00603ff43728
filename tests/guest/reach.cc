// A guest that reaches for any address with any kind of access it is asked for, and says what it
// saw: the proof that memory attached late behaves like memory attached at once (vmm/ram_slots.h).
#include "tests/guest/reach_abi.h"

#include <cstddef>
#include <cstdint>

#include "tools/guest/micro/entry.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"
#include "vmm/guest_abi.h"

namespace {

using namespace volt::guest_abi;
using volt::test::reach::Access;
using u64 = std::uint64_t;

struct Seen {
  u64 low, high;
};

template <typename T>
u64 load(u64 address) {
  return *volt::guest::at_address<volatile T>(address);
}
template <typename T>
void store(u64 address, u64 value) {
  *volt::guest::at_address<volatile T>(address) = static_cast<T>(value);
}

Seen read_modify_write(Access access, u64 address, u64 value) {
  u64 seen = value;
  switch (access) {
    case Access::kSignExtend:
      asm volatile("movsbq (%1), %0" : "=r"(seen) : "r"(address) : "memory");
      break;
    case Access::kAdd:
      asm volatile("addq %1, (%0)" : : "r"(address), "r"(value) : "memory", "cc");
      break;
    case Access::kIncrement:
      asm volatile("incl (%0)" : : "r"(address) : "memory", "cc");
      break;
    case Access::kCompare:
      asm volatile("xor %%eax, %%eax\n cmpq %2, (%1)\n sete %%al"
                   : "=&a"(seen)
                   : "r"(address), "r"(value)
                   : "memory", "cc");
      break;
    case Access::kXchg:
      asm volatile("xchgl %k0, (%1)" : "+r"(seen) : "r"(address) : "memory");
      break;
    case Access::kLockXadd:
      asm volatile("lock xaddq %0, (%1)" : "+r"(seen) : "r"(address) : "memory", "cc");
      break;
    default: {  // kLockCmpxchg: succeeds where the word is `value`
      asm volatile("lock cmpxchgq %2, (%1)"
                   : "+a"(seen)
                   : "r"(address), "r"(~value)
                   : "memory", "cc");
    }
  }
  return {seen, 0};
}

Seen sse(Access access, u64 address, u64 value) {
  Seen seen = {value, ~value};
  switch (access) {
    case Access::kSseLoad:
      asm volatile("movups (%1), %%xmm3\n movups %%xmm3, %0"
                   : "=m"(seen)
                   : "r"(address)
                   : "xmm3", "memory");
      break;
    case Access::kSseAlignedLoad:
      asm volatile("movaps (%1), %%xmm3\n movups %%xmm3, %0"
                   : "=m"(seen)
                   : "r"(address)
                   : "xmm3", "memory");
      break;
    case Access::kSseStore:
      asm volatile("movups %1, %%xmm3\n movups %%xmm3, (%0)"
                   :
                   : "r"(address), "m"(seen)
                   : "xmm3", "memory");
      break;
    default:
      asm volatile("movnti %1, (%0)\n sfence" : : "r"(address), "r"(value) : "memory");
  }
  return seen;
}

Seen strings(Access access, u64 address, u64 value) {
  u64 words[16];
  for (u64 i = 0; i < 16; ++i) words[i] = seeded_word(value, i);
  u64 count = sizeof words;
  u64 at = address;
  u64 from = reinterpret_cast<u64>(words);
  if (access == Access::kRepStos) {
    count = 16;
    asm volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(value) : "memory");
  } else if (access == Access::kRepMovsTo) {
    asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
  } else {
    u64 to = from;
    asm volatile("rep movsb" : "+D"(to), "+S"(at), "+c"(count) : : "memory");
  }
  Checksum sum;
  for (const u64 word : words) sum.add(word);
  return {sum.value(), count};
}

Seen push_pop(u64 address, u64 value) {
  u64 seen = 0;
  asm volatile("mov %%rsp, %%r8\n mov %1, %%rsp\n push %2\n pop %0\n mov %%r8, %%rsp"
               : "=&r"(seen)
               : "r"(address + 8), "r"(value)
               : "r8", "memory");
  return {seen, 0};
}

Seen reach(Access access, u64 address, u64 value) {
  switch (access) {
    case Access::kLoad8:
      return {load<std::uint8_t>(address), 0};
    case Access::kLoad16:
      return {load<std::uint16_t>(address), 0};
    case Access::kLoad32:
      return {load<std::uint32_t>(address), 0};
    case Access::kLoad64:
      return {load<u64>(address), 0};
    case Access::kStore8:
      return store<std::uint8_t>(address, value), Seen{};
    case Access::kStore16:
      return store<std::uint16_t>(address, value), Seen{};
    case Access::kStore32:
      return store<std::uint32_t>(address, value), Seen{};
    case Access::kStore64:
      return store<u64>(address, value), Seen{};
    case Access::kSseLoad:
    case Access::kSseStore:
    case Access::kSseAlignedLoad:
    case Access::kNonTemporal:
      return sse(access, address, value);
    case Access::kRepMovsTo:
    case Access::kRepMovsFrom:
    case Access::kRepStos:
      return strings(access, address, value);
    case Access::kPushPop:
      return push_pop(address, value);
    default:
      return read_modify_write(access, address, value);
  }
}

[[noreturn]] void serve(ControlPage& page) {
  std::uint32_t seq = 0;
  for (;;) {
    while (__atomic_load_n(&page.request.seq, __ATOMIC_ACQUIRE) == seq) {
      volt::guest::out32(kPortPark, 0);
    }
    seq = page.request.seq;
    const auto* const arguments = volt::guest::at_address<const std::uint8_t>(
        reinterpret_cast<u64>(&page) + page.request.offset);
    const Seen seen =
        reach(Access{volt::guest::load_word(arguments, 0)}, volt::guest::load_word(arguments, 1),
              volt::guest::load_word(arguments, 2));
    auto& head = *volt::guest::at_address<ReplyHead>(reinterpret_cast<u64>(page.inline_response));
    head = {};
    volt::guest::memcpy(page.inline_response + sizeof head, &seen, sizeof seen);
    page.response.status = Status::kOk;
    page.response.offset = offsetof(ControlPage, inline_response);
    page.response.bytes = sizeof head + sizeof seen;
    __atomic_store_n(&page.response.seq, seq, __ATOMIC_RELEASE);
    volt::guest::out32(kPortDone, 0);
  }
}

}  // namespace

extern "C" {

void guest_boot(std::uint64_t argument, std::uint64_t) {
  auto& page = *volt::guest::at_address<ControlPage>(argument);
  volt::guest::out32(kPortReady, 0);
  serve(page);
}

void guest_resume(std::uint64_t window) {
  serve(*volt::guest::at_address<ControlPage>(window));
}

}  // extern "C"
