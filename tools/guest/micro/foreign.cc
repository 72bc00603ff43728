#include "tools/guest/micro/foreign.h"

#include "tools/guest/micro/functions.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"
#include "tools/guest/micro/pvh.h"
#include "tools/guest/micro/serial.h"

namespace volt::guest {
namespace {

using guest_abi::ControlPage;
using guest_abi::Function;
using guest_abi::ReplyHead;

constexpr std::uint64_t kDefaultWorkingSet = 8 << 20;
constexpr std::uint64_t kTickCycles = std::uint64_t{1} << 31;
constexpr std::uint64_t kFirecrackerTimer = 0xC000'0000;
constexpr std::uint8_t kFirecrackerBooted = 123;
constexpr std::uint16_t kCloudHypervisorTimer = 0x80;
constexpr std::uint8_t kUserspaceBooted = 0x60;
constexpr std::uint8_t kQuit = 32;  // no exception's number, so QEMU's exit code tells them apart
constexpr std::uint32_t kMostArguments = guest_abi::kInlineBytes / sizeof(std::uint64_t);

// Stands in for the exchange window.
[[gnu::section(".bss.foreign")]] constinit ControlPage own_page = {};

bool is_set(const char* options, const char* name) {
  return number_option(options, name, 0) == 1;
}

[[noreturn]] void power_off() {
  for (;;) {
    out8(0xF4, kQuit);  // QEMU's isa-debug-exit
    out8(0x600, 0x34);  // Cloud Hypervisor
    out8(0x64, 0xFE);   // Firecracker; elsewhere a reset
  }
}

// No host gives an identity here. The TSC is no secret: enough for measuring, not for keys.
void make_identity(guest_abi::Identity& identity) {
  identity.generation[0] = read_tsc();
  const std::uint64_t seed = read_tsc();
  for (std::uint32_t i = 0; i < 4; ++i) {
    store_word(identity.entropy, i, guest_abi::seeded_word(seed, i));
  }
}

bool start(Guest& guest, const PvhStartInfo& info, const char* options) {
  guest.page = &own_page;
  guest.window_bytes = sizeof own_page;
  make_identity(own_page.identity);
  adopt_identity(guest);
  const char* const workload = find_option(options, "workload");
  const bool is_kv = workload != nullptr && workload[0] == 'k';
  const std::uint64_t ram = number_option(options, "mem", ram_bytes(info));
  return start_workload(
      guest, {.abi = guest_abi::kVersion,
              .workload = is_kv ? guest_abi::Workload::kKv : guest_abi::Workload::kEcho,
              .ram_bytes = ram < guest_abi::kMaxRamBytes ? ram : guest_abi::kMaxRamBytes,
              .working_set_bytes = number_option(options, "ws", is_kv ? kDefaultWorkingSet : 0),
              .seed = number_option(options, "seed", 1)});
}

void announce_ready(const char* options) {
  if (is_set(options, "fc_bt")) {
    *at_address<volatile std::uint8_t>(kFirecrackerTimer) = kFirecrackerBooted;
  }
  if (is_set(options, "ch_dbg")) out8(kCloudHypervisorTimer, kUserspaceBooted);
  const std::uint64_t tsc = read_tsc();
  serial_write("VMICRO READY ");
  serial_write_hex(tsc);
  serial_write("\n");
}

// Calls `function` with the first `count` words of the page's inline request.
Outcome call(Guest& guest, std::uint64_t function, std::uint32_t count) {
  return call_function(guest, {.seq = 0,
                               .function = static_cast<Function>(function),
                               .offset = offsetof(ControlPage, inline_request),
                               .bytes = count * static_cast<std::uint32_t>(sizeof(std::uint64_t)),
                               .spin_tsc = 0,
                               .want_kick = 0});
}

[[noreturn]] void tick(Guest& guest) {
  std::uint64_t start = read_tsc();
  for (std::uint64_t count = 0;; ++count) {
    while (read_tsc() - start < kTickCycles) pause();
    start = read_tsc();
    store_word(own_page.inline_request, 0, 0);
    call(guest, static_cast<std::uint64_t>(Function::kTouch), 1);
    serial_write("VMICRO TICK ");
    serial_write_hex(count);
    serial_write("\n");
  }
}

int digit_of(char character) {
  if (character >= '0' && character <= '9') return character - '0';
  if (character >= 'a' && character <= 'f') return character - 'a' + 10;
  return -1;
}

struct Line {
  std::uint64_t function;
  std::uint32_t arguments;  // how many words, which are in the page's inline request
  bool is_quit;
};

Line read_line() {
  Line line = {.function = 0, .arguments = 0, .is_quit = false};
  std::uint32_t word = 0;  // 0 is the function, n the argument n - 1
  std::uint64_t value = 0;
  bool has_digits = false;
  for (;;) {
    const char character = serial_read();
    const int digit = digit_of(character);
    if (digit >= 0) {
      value = value << 4 | static_cast<std::uint64_t>(digit);
      has_digits = true;
      continue;
    }
    if (character == 'q') line.is_quit = true;
    if (has_digits && word == 0) line.function = value;
    if (has_digits && word > 0 && word <= kMostArguments) {
      store_word(own_page.inline_request, word - 1, value);
      line.arguments = word;
    }
    if (has_digits) ++word, value = 0, has_digits = false;
    if (character == '\n') return line;
  }
}

void write_outcome(const Outcome& outcome) {
  const auto* const reply = reinterpret_cast<const std::uint8_t*>(&own_page) + outcome.offset;
  constexpr std::uint64_t kHeadWords = sizeof(ReplyHead) / sizeof(std::uint64_t);
  const std::uint64_t words = outcome.bytes / sizeof(std::uint64_t);
  serial_write("ok ");
  serial_write_hex(static_cast<std::uint64_t>(outcome.status));
  for (std::uint64_t i = 0; i < words && i < kHeadWords + 8; ++i) {
    serial_write(" ");
    serial_write_hex(load_word(reply, i));
  }
  serial_write("\n");
}

}  // namespace

void run_foreign(Guest& guest, std::uint64_t start_info) {
  const auto& info = *at_address<const PvhStartInfo>(start_info);
  const char* const options = command_line(info);
  if (!start(guest, info, options)) {
    serial_write("VMICRO BAD OPTIONS\n");
    power_off();
  }
  announce_ready(options);
  if (is_set(options, "auto")) tick(guest);
  for (;;) {
    const Line line = read_line();
    if (line.is_quit) power_off();
    if (line.function == 0) continue;  // an empty line
    write_outcome(call(guest, line.function, line.arguments));
  }
}

}  // namespace volt::guest
