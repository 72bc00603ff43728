#include "tools/guest/micro/functions.h"

#include "tools/guest/micro/crash.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"

namespace volt::guest {
namespace {

using guest_abi::Checksum;
using guest_abi::ControlPage;
using guest_abi::ReplyHead;
using guest_abi::Status;

constexpr std::uint32_t kWordBytes = sizeof(std::uint64_t);

struct Call {
  Guest& guest;
  const std::uint8_t* arguments;
  std::uint32_t bytes;
  Outcome outcome;
  Checksum sum;

  bool has_words(std::uint32_t count) const { return bytes == count * kWordBytes; }
  std::uint64_t word(std::uint64_t index) const { return load_word(arguments, index); }

  // Where `data_bytes` of reply data go, 8-byte aligned; null if there is no room for so many.
  std::uint8_t* reserve(std::uint32_t data_bytes) {
    constexpr auto kHead = static_cast<std::uint32_t>(sizeof(ReplyHead));
    if (data_bytes > guest_abi::kInlineBytes - kHead) {
      const bool fits = guest.window_bytes >= guest_abi::kWindowBytes &&
                        data_bytes <= guest_abi::kResponseAreaBytes - kHead;
      if (!fits) return nullptr;
      outcome.offset = guest_abi::kResponseArea;
    }
    outcome.bytes = kHead + data_bytes;
    return reinterpret_cast<std::uint8_t*>(guest.page) + outcome.offset + kHead;
  }
};

[[gnu::hot]] Status health(Call& call) {
  if (!call.has_words(0)) return Status::kBadArguments;
  Guest& guest = call.guest;
  if (guest.set.pages() > 0) call.sum.add_block(guest.set.page(0), kPageWords);
  guest_abi::HealthReply reply = {
      .generation = {guest.generation[0], guest.generation[1]},
      .working_set_bytes = guest.set.pages() * guest_abi::kPageBytes,
      .calls_served = guest.calls_served,
      .random = 0,
      .workload = guest.workload,
      .reserved = 0,
  };
  guest.generator.fill(reinterpret_cast<std::uint8_t*>(&reply.random), kWordBytes);
  __builtin_memcpy(call.reserve(sizeof reply), &reply, sizeof reply);
  return Status::kOk;
}

[[gnu::hot]] Status echo(Call& call) {
  std::uint8_t* const out = call.reserve(call.bytes);
  if (out == nullptr) return Status::kBadArguments;
  memcpy(out, call.arguments, call.bytes);
  // Sums the copy, which is aligned; there is room for the padding.
  const std::uint32_t words = (call.bytes + kWordBytes - 1) / kWordBytes;
  memset(out + call.bytes, 0, words * kWordBytes - call.bytes);
  const std::uint32_t in_blocks = words & ~std::uint32_t{3};
  call.sum.add_block(reinterpret_cast<const std::uint64_t*>(out), in_blocks);
  for (std::uint32_t i = in_blocks; i < words; ++i) call.sum.add(load_word(out, i));
  return Status::kOk;
}

// Record n, summed; null if there is none.
[[gnu::always_inline]] inline WorkingSet::Record* read_record(Call& call) {
  const std::uint64_t number = call.word(0);
  if (number >= call.guest.set.records()) return nullptr;
  WorkingSet::Record* const record = call.guest.set.record(number);
  call.sum.add(record->key);
  call.sum.add(record->value);
  return record;
}

[[gnu::hot]] Status get(Call& call) {
  if (!call.has_words(1)) return Status::kBadArguments;
  const WorkingSet::Record* const record = read_record(call);
  if (record == nullptr) return Status::kBadArguments;
  store_word(call.reserve(kWordBytes), 0, record->value);
  return Status::kOk;
}

[[gnu::hot]] Status put(Call& call) {
  if (!call.has_words(2)) return Status::kBadArguments;
  WorkingSet::Record* const record = read_record(call);
  if (record == nullptr) return Status::kBadArguments;
  store_word(call.reserve(kWordBytes), 0, record->value);
  record->value = call.word(1);
  return Status::kOk;
}

[[gnu::hot]] Status scan(Call& call) {
  if (!call.has_words(2)) return Status::kBadArguments;
  const std::uint64_t first = call.word(0), count = call.word(1);
  if (!call.guest.set.has(first, count)) return Status::kBadArguments;
  for (std::uint64_t i = 0; i < count; ++i) {
    call.sum.add_block(call.guest.set.page(first + i), kPageWords);
  }
  return Status::kOk;
}

[[gnu::hot]] Status touch(Call& call) {
  if (call.bytes % kWordBytes != 0) return Status::kBadArguments;
  const std::uint32_t count = call.bytes / kWordBytes;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!call.guest.set.has(call.word(i), 1)) return Status::kBadArguments;
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint64_t* const words = call.guest.set.page(call.word(i));
    call.sum.add(words[0]);
    ++words[1];
  }
  return Status::kOk;
}

Status write(Call& call) {
  if (!call.has_words(3)) return Status::kBadArguments;
  const std::uint64_t first = call.word(0), count = call.word(1), seed = call.word(2);
  if (!call.guest.set.has(first, count)) return Status::kBadArguments;
  for (std::uint64_t i = 0; i < count; ++i) {
    call.guest.set.write_page(first + i, seed);
    call.sum.add_block(call.guest.set.page(first + i), kPageWords);
  }
  return Status::kOk;
}

Status random(Call& call) {
  if (!call.has_words(1)) return Status::kBadArguments;
  const std::uint64_t bytes = call.word(0);
  if (bytes > guest_abi::kMaxRandomBytes) return Status::kBadArguments;
  std::uint8_t* const out = call.reserve(static_cast<std::uint32_t>(bytes));
  if (out == nullptr) return Status::kBadArguments;
  call.guest.generator.fill(out, static_cast<std::uint32_t>(bytes));
  return Status::kOk;
}

[[gnu::hot]] Status now(Call& call) {
  if (!call.has_words(0)) return Status::kBadArguments;
  std::uint8_t* const out = call.reserve(2 * kWordBytes);
  const std::uint64_t tsc = read_tsc();
  store_word(out, 0, call.guest.clock.wall_ns(tsc));
  store_word(out, 1, call.guest.clock.mono_ns(tsc));
  return Status::kOk;
}

Status ask_host(Call& call) {
  using guest_abi::HostFunction;
  if (!call.guest.has_host) return Status::kUnknownFunction;
  if (call.bytes < kWordBytes) return Status::kBadArguments;
  const auto function = static_cast<HostFunction>(call.word(0));
  const std::uint32_t bytes = call.bytes - kWordBytes;
  const std::uint32_t most = function == HostFunction::kLog ? guest_abi::kInlineBytes : 0;
  const bool known = call.word(0) >= static_cast<std::uint64_t>(HostFunction::kLog) &&
                     call.word(0) <= static_cast<std::uint64_t>(HostFunction::kRandom);
  if (!known || bytes > most) return Status::kBadArguments;

  ControlPage& page = *call.guest.page;
  memcpy(page.inline_call, call.arguments + kWordBytes, bytes);
  page.call.function = function;
  page.call.offset = offsetof(ControlPage, inline_call);
  page.call.bytes = bytes;
  out32(guest_abi::kPortHostCall, 0);
  const std::uint32_t given = page.reply.bytes;
  const std::uint32_t answer = given < sizeof page.reply.data ? given : sizeof page.reply.data;
  memcpy(call.reserve(answer), page.reply.data, answer);
  return Status::kOk;
}

Status spin(Call& call) {
  if (!call.has_words(0)) return Status::kBadArguments;
  for (;;) pause();
}

Status crash_as_told(Call& call) {
  if (!call.has_words(1)) return Status::kBadArguments;
  crash(static_cast<guest_abi::CrashKind>(call.word(0)), call.guest.ram_bytes);
  return Status::kBadArguments;
}

using Handler = Status (*)(Call&);

// By number. Among the hot code, because a restored guest reads it.
[[gnu::section(".rodata.hot")]] constexpr Handler kHandlers[] = {
    nullptr, health, echo, get, put, scan, touch, write, random, now, ask_host, spin, crash_as_told,
};
static_assert(sizeof kHandlers / sizeof kHandlers[0] ==
              static_cast<std::uint64_t>(guest_abi::Function::kCrash) + 1);

[[gnu::always_inline]] inline Status dispatch(Call& call, const guest_abi::Request& request) {
  const auto number = static_cast<std::uint32_t>(request.function);
  if (number == 0 || number >= sizeof kHandlers / sizeof kHandlers[0]) {
    return Status::kUnknownFunction;
  }
  const std::uint64_t window = call.guest.window_bytes;
  if (request.offset > window || request.bytes > window - request.offset) {
    return Status::kBadArguments;
  }
  return kHandlers[number](call);
}

}  // namespace

[[gnu::hot]] Outcome call_function(Guest& guest, const guest_abi::Request& request) {
  ++guest.calls_served;
  auto* const window = reinterpret_cast<std::uint8_t*>(guest.page);
  Call call = {
      .guest = guest,
      .arguments = window + request.offset,
      .bytes = request.bytes,
      .outcome = {.status = Status::kOk,
                  .offset = offsetof(ControlPage, inline_response),
                  .bytes = sizeof(ReplyHead)},
      .sum = {},
  };
  call.outcome.status = dispatch(call, request);
  const ReplyHead head = {.checksum = call.sum.value(), .words = call.sum.words()};
  __builtin_memcpy(window + call.outcome.offset, &head, sizeof head);
  return call.outcome;
}

}  // namespace volt::guest
