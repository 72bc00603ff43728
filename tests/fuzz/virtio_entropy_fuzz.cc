// The random device under a guest that does anything: no crash, no byte outside RAM.
#include "tests/fuzz/virtio_ops.h"
#include "vmm/virtio/entropy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::virtio;
  FuzzInput input(std::as_bytes(std::span(data, size)));
  FuzzedGuest guest(std::make_unique<Entropy>());
  while (!input.empty()) {
    guest.act(input.take<std::uint8_t>() % FuzzedGuest::kOps, input);
  }
  return 0;
}
