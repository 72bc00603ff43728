// decode_machine_state() on anything: an error or a message that obeys the rules, never a crash.
#include "formats/machine_state.h"

#include <cstdint>

#include "tests/fuzz/sealed_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  fuzz_sealed(FileKind::kMachineState, std::as_bytes(std::span(data, size)),
              [](std::span<const std::byte> file) { return decode_machine_state(file); });
  return 0;
}
