// The balloon under a guest that does anything: what it discards is whole pages of RAM.
#include "tests/fuzz/virtio_ops.h"
#include "vmm/virtio/balloon.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::virtio;
  FuzzInput input(std::as_bytes(std::span(data, size)));
  auto made = std::make_unique<Balloon>([](std::uint64_t address, std::uint64_t bytes) {
    expect(bytes > 0 && (address | bytes) % Balloon::kPageBytes == 0, "pages are whole");
    expect(FuzzedGuest::memory().at(address, bytes).has_value(), "pages are RAM");
    return volt::Result<>();
  });
  Balloon& balloon = *made;
  FuzzedGuest guest(std::move(made));
  while (!input.empty()) {
    const std::uint8_t op = input.take<std::uint8_t>() % (FuzzedGuest::kOps + 2);
    if (op < FuzzedGuest::kOps) {
      guest.act(op, input);
    } else if (op == FuzzedGuest::kOps) {
      balloon.set_target(input.take<std::uint32_t>());
    } else {
      const BalloonState state = {input.take<std::uint16_t>(), input.take<std::uint16_t>()};
      const bool loaded = balloon.load(state).has_value();
      expect(!loaded || balloon.save() == state, "what was loaded is what is saved");
    }
  }
  return 0;
}
