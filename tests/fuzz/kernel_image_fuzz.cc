// KernelImage::parse() on anything, by every way in, and what it accepts into a guest's memory: an
// error or a kernel inside that memory, never a crash.
#include "vmm/pc/kernel_image.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "vmm/pc/kernel_boot.h"

namespace {

using namespace volt;

void expect(bool holds, const Error& error) {
  if (holds && !error.context.empty()) return;
  std::fprintf(stderr, "broken promise: %s\n", error.context.c_str());
  std::abort();
}

void look_at(std::span<const std::byte> file, pc::Entry entry, const vmm::GuestMemory& memory) {
  const Result<pc::KernelImage> image = pc::KernelImage::parse(file, entry);
  if (!image) {
    const Code code = image.error().code;
    expect(code == Code::kCorrupt || code == Code::kUnsupported, image.error());
    return;
  }
  const pc::KernelInput input = {.initrd = file, .command_line = "console=ttyS0"};
  const Result<pc::KernelBoot> boot = pc::load_kernel(*image, input, memory);
  if (!boot) expect(boot.error().code == Code::kInvalid, boot.error());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const vmm::GuestMemory memory =
      vmm::GuestMemory::anonymous(vmm::ram_layout(32 << 20).value()).value();
  const auto file = std::as_bytes(std::span(data, size));
  for (const pc::Entry entry : {pc::Entry::kLinux64, pc::Entry::kPvh, pc::Entry::kBzImage}) {
    look_at(file, entry, memory);
  }
  return 0;
}
