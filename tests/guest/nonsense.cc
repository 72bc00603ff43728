// A guest that means harm: whenever it runs, it fills every word of the window that it may write,
// and many that it may not, with garbage, and rings some doorbell. BootConfig::seed says which.
#include <cstddef>
#include <cstdint>

#include "tools/guest/micro/entry.h"
#include "tools/guest/micro/memory.h"
#include "tools/guest/micro/port.h"
#include "vmm/guest_abi.h"

namespace {

using namespace volt::guest_abi;

class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t word() { return seeded_word(seed_, index_++); }
  bool one_in(std::uint64_t n) { return word() % n == 0; }

  // Numbers that are wrong in interesting ways are rare among all numbers.
  std::uint32_t length() {
    constexpr std::uint32_t kEdges[] = {0,
                                        1,
                                        sizeof(ReplyHead) - 1,
                                        sizeof(ReplyHead),
                                        kInlineBytes,
                                        kInlineBytes + 1,
                                        kResponseArea,
                                        static_cast<std::uint32_t>(kWindowBytes),
                                        static_cast<std::uint32_t>(kWindowBytes) + 1,
                                        0x7FFF'FFFF,
                                        0x8000'0000,
                                        0xFFFF'FFFF};
    if (one_in(4)) return static_cast<std::uint32_t>(word());
    return kEdges[word() % (sizeof kEdges / sizeof kEdges[0])];
  }

 private:
  std::uint64_t seed_;
  std::uint64_t index_ = 0;
};

void scribble(Random& random, ControlPage& page) {
  page.response.status = Status{static_cast<std::uint32_t>(random.word() % 5)};
  page.response.offset = random.length();
  page.response.bytes = random.length();
  page.response.acknowledged_generation[random.word() & 1] = random.word();
  page.call.function = HostFunction{static_cast<std::uint32_t>(random.word() % 5)};
  page.call.offset = random.length();
  page.call.bytes = random.length();
  page.ready.working_set_base = random.word();
  page.ready.working_set_bytes = random.word();
  if (random.one_in(4)) {
    auto* const anywhere = reinterpret_cast<std::uint8_t*>(&page);
    volt::guest::store_word(anywhere, random.word() % (kWindowBytes / 8), random.word());
  }
  const std::uint32_t asked = page.request.seq;
  page.response.seq = random.one_in(4) ? random.length() : asked;
}

void ring(Random& random) {
  constexpr std::uint16_t kPorts[] = {kPortReady, kPortPark,     kPortDone, kPortDone,
                                      kPortDone,  kPortHostCall, kPortKick, kPortHostCall};
  const auto value = static_cast<std::uint32_t>(random.word());
  if (random.one_in(32)) return volt::guest::out32(kPortExit, value);
  if (random.one_in(32)) return volt::guest::out32(kPortPanic, value);
  if (random.one_in(32)) return volt::guest::out8(kPortDone, 1);
  if (random.one_in(32)) {
    volt::guest::in8(kPortReady);
    return;
  }
  volt::guest::out32(kPorts[random.word() % (sizeof kPorts / sizeof kPorts[0])], value);
}

}  // namespace

extern "C" {

void guest_boot(std::uint64_t argument, std::uint64_t) {
  auto& page = *volt::guest::at_address<ControlPage>(argument);
  Random random(page.boot.seed);
  page.ready.working_set_base = 0x60'0000;
  page.ready.working_set_bytes = page.boot.working_set_bytes;
  volt::guest::out32(kPortReady, 0);
  for (;;) {
    scribble(random, page);
    ring(random);
  }
}

void guest_resume(std::uint64_t) {
  for (;;) volt::guest::out32(kPortExit, 0);
}

}  // extern "C"
