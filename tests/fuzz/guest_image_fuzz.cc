// GuestImage::parse() and load() on anything: an error or an image inside its memory, never a
// crash.
#include "vmm/guest_image.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt;
  static const vmm::RegionLayout kLayout[] = {{.guest_base = 0, .bytes = 8 << 20}};
  static const vmm::GuestMemory memory = vmm::GuestMemory::anonymous(kLayout).value();
  const Result<vmm::GuestImage> image =
      vmm::GuestImage::parse(std::as_bytes(std::span(data, size)));
  const Result<> loaded = image ? image->load(memory) : Result<>(std::unexpected(image.error()));
  if (loaded) return 0;
  const Code code = loaded.error().code;
  const bool known =
      code == Code::kCorrupt || code == Code::kUnsupported || (image && code == Code::kInvalid);
  if (!known || loaded.error().context.empty()) {
    std::fprintf(stderr, "broken promise: %s\n", loaded.error().context.c_str());
    std::abort();
  }
  return 0;
}
