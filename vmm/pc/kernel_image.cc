#include "vmm/pc/kernel_image.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <string_view>

#include "vmm/checked_slice.h"
#include "vmm/elf_file.h"
#include "vmm/pc/layout.h"
#include "vmm/pc/unpack.h"

namespace volt::pc {
namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kHeaderAt = 0x1F1;       // of the file as of the zero page
constexpr std::size_t kHeaderRoomEnd = 0x290;  // where the zero page goes on with other things
constexpr std::size_t kJump = 0x200;  // two bytes: what follows the header is what it skips
constexpr std::uint32_t kHdrS = 0x5372'6448;
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::uint16_t kLeastProtocol = 0x20C;  // the first to say XLF_KERNEL_64
constexpr std::uint64_t kEntry64 = 0x200;        // behind the start of the protected-mode part
constexpr std::size_t kMaxVersion = 64;

std::unexpected<Error> bad_image(std::string what) {
  return fail(Code::kCorrupt, std::move(what));
}

std::unexpected<Error> unsupported(std::string what) {
  return fail(Code::kUnsupported, std::move(what));
}

struct BzImage {
  setup_header header;
  std::span<const std::byte> header_bytes;  // as much of it as the kernel has
  std::span<const std::byte> setup;         // the real-mode part
  std::span<const std::byte> kernel;        // the protected-mode part
};

bool is_bz_image(std::span<const std::byte> file) {
  const auto header = vmm::read_at<setup_header>(file, kHeaderAt);
  return header && header->boot_flag == kBootFlag && header->header == kHdrS;
}

Result<> check_protocol(const setup_header& header) {
  if (header.version < kLeastProtocol) {
    return unsupported("boot protocol " + std::to_string(header.version >> 8) + "." +
                       std::to_string(header.version & 0xFF) +
                       ": 2.12 is the least (Linux 3.8 has it)");
  }
  if ((header.xloadflags & XLF_KERNEL_64) == 0) return unsupported("xloadflags: not 64-bit");
  if ((header.loadflags & LOADED_HIGH) == 0) return unsupported("loadflags: a zImage");
  return {};
}

Result<BzImage> split(std::span<const std::byte> file) {
  BzImage image = {};
  image.header = *vmm::read_at<setup_header>(file, kHeaderAt);
  VOLT_TRY(check_protocol(image.header));
  const std::size_t sectors = image.header.setup_sects == 0 ? 4 : image.header.setup_sects;
  const auto setup = vmm::slice(file, 0, (sectors + 1) * kSector);
  if (!setup) return bad_image("setup_sects: past the end of the file");
  image.setup = *setup;
  const std::size_t header_end = kJump + 2 + std::to_integer<std::size_t>(file[kJump + 1]);
  if (header_end < kHeaderAt + offsetof(setup_header, handover_offset)) {
    return bad_image("jump: the header ends before init_size");
  }
  image.header_bytes = image.setup.subspan(
      kHeaderAt, std::min({header_end, kHeaderRoomEnd, image.setup.size()}) - kHeaderAt);
  const auto kernel =
      vmm::slice(file, image.setup.size(), std::uint64_t{image.header.syssize} * 16);
  if (!kernel || kernel->size() <= kEntry64) {
    return bad_image("syssize: " + std::string(kernel ? "too small" : "past the end of the file"));
  }
  image.kernel = *kernel;
  return image;
}

std::string first_word(std::span<const std::byte> text) {
  std::string word;
  for (const std::byte each : text.first(std::min(text.size(), kMaxVersion))) {
    const char letter = static_cast<char>(each);
    if (letter <= ' ' || letter > '~') break;
    word += letter;
  }
  return word;
}

Result<std::string> version_of(const BzImage& image) {
  if (image.header.kernel_version == 0) return std::string();
  const std::uint64_t at = std::uint64_t{image.header.kernel_version} + kJump;
  if (at >= image.setup.size()) return bad_image("kernel_version: past the setup code");
  return first_word(image.setup.subspan(at));
}

// A vmlinux has it in its banner only.
std::string version_in(std::span<const std::byte> file) {
  constexpr std::string_view kBanner = "Linux version ";
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  for (std::size_t at = 0; (at = text.find(kBanner, at)) != text.npos;) {
    at += kBanner.size();
    // Others of its texts begin the same way and go on with %s.
    if (at < text.size() && text[at] >= '0' && text[at] <= '9') return first_word(file.subspan(at));
  }
  return {};
}

Result<std::span<const std::byte>> payload_of(const BzImage& image) {
  const auto payload =
      vmm::slice(image.kernel, image.header.payload_offset, image.header.payload_length);
  if (!payload) return bad_image("payload: past the end of the kernel");
  if (payload->size() < 8) return bad_image("payload: too small");
  return *payload;
}

Result<Mapping> unpack_payload(std::span<const std::byte> payload) {
  const std::size_t before_size = payload.size() - sizeof(std::uint32_t);
  const auto unpacked_bytes = *vmm::read_at<std::uint32_t>(payload, before_size);
  // gzip ends with its size already; after all others the kernel's build has put one.
  const bool own_size = packing_of(payload) == Packing::kGzip;
  return unpack(own_size ? payload : payload.first(before_size), unpacked_bytes);
}

// The file's own way: all of the protected-mode part where it prefers to be, and room to unpack.
Result<KernelSegment> as_it_is(const BzImage& image) {
  const setup_header& header = image.header;
  if (header.pref_address < kHighMemory) return bad_image("pref_address: below 1 MiB");
  if (header.init_size < image.kernel.size())
    return bad_image("init_size: smaller than the kernel");
  if (header.init_size > ~std::uint64_t{0} - header.pref_address) {
    return bad_image("pref_address: its end wraps around");
  }
  return KernelSegment{header.pref_address, header.init_size, image.kernel};
}

}  // namespace

Result<> KernelImage::take_elf(std::span<const std::byte> elf) {
  ElfKernel kernel = VOLT_TRY(parse_elf_kernel(elf));
  if (entry_ == Entry::kPvh && !kernel.pvh_entry) {
    return unsupported("no PVH note: this kernel was built without CONFIG_PVH");
  }
  entry_address_ = entry_ == Entry::kPvh ? *kernel.pvh_entry : kernel.entry;
  segments_ = std::move(kernel.segments);
  if (version_.empty()) version_ = version_in(elf);
  return {};
}

Result<> KernelImage::take_bz_image(std::span<const std::byte> file) {
  const BzImage image = VOLT_TRY_IN("setup header", split(file));
  setup_header_ = image.header_bytes;
  version_ = VOLT_TRY_IN("setup header", version_of(image));
  initrd_last_ = image.header.initrd_addr_max;
  command_line_most_ = image.header.cmdline_size;
  if (entry_ == Entry::kBzImage) {
    segments_ = {VOLT_TRY_IN("setup header", as_it_is(image))};
    entry_address_ = segments_[0].address + kEntry64;
    return {};
  }
  const auto payload = VOLT_TRY_IN("setup header", payload_of(image));
  unpacked_ = VOLT_TRY_IN("payload", unpack_payload(payload));
  return take_elf(unpacked_->bytes());
}

Result<KernelImage> KernelImage::parse(std::span<const std::byte> file, Entry entry) {
  KernelImage image(entry);
  if (is_bz_image(file)) {
    VOLT_TRY_IN("kernel image", image.take_bz_image(file));
    return image;
  }
  if (!vmm::is_elf(file)) return bad_image("kernel image: neither a bzImage nor an ELF file");
  if (entry == Entry::kBzImage) return unsupported("kernel image: a vmlinux is not a bzImage");
  VOLT_TRY_IN("kernel image", image.take_elf(file));
  return image;
}

std::uint64_t KernelImage::start() const {
  return std::ranges::min(segments_, {}, &KernelSegment::address).address;
}

std::uint64_t KernelImage::end() const {
  return std::ranges::max(segments_, {}, &KernelSegment::end).end();
}

}  // namespace volt::pc
