#include "uffd/shared_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace volt::uffd {
namespace {

std::string name_of(std::uint64_t unit) {
  return "image unit " + std::to_string(unit);
}

}  // namespace

SharedImage::SharedImage(Fd memfd, Mapping map, Userfaultfd uffd, std::uint64_t unit_bytes)
    : memfd_(std::move(memfd)),
      uffd_(std::move(uffd)),
      map_(std::move(map)),
      unit_bytes_(unit_bytes) {}

Result<SharedImage> SharedImage::create(std::uint64_t bytes, std::uint64_t unit_bytes) {
  Fd memfd{::memfd_create("volt-image", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!memfd.valid()) return sys_error("memfd_create");
  if (::ftruncate(memfd.get(), static_cast<off_t>(bytes)) != 0) return sys_error("ftruncate image");
  Mapping map =
      VOLT_TRY(Mapping::create(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0, "image"));
  if (::madvise(map.data(), bytes, MADV_DONTFORK) != 0) return sys_error("madvise image");
  constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (::fcntl(memfd.get(), F_ADD_SEALS, kSeals) != 0) return sys_error("seal image");
  Userfaultfd uffd = VOLT_TRY(Userfaultfd::open());
  VOLT_TRY(uffd.register_missing(map.bytes()));
  return SharedImage(std::move(memfd), std::move(map), std::move(uffd), unit_bytes);
}

Result<> SharedImage::fill(std::uint64_t unit, std::span<const std::byte> bytes) {
  if (bytes.size() != unit_bytes_) {
    return fail(Code::kCorrupt, name_of(unit) + ": its source gave " +
                                    std::to_string(bytes.size()) + " bytes, not " +
                                    std::to_string(unit_bytes_));
  }
  std::byte* const base = map_.data() + unit * unit_bytes_;
  using enum Userfaultfd::Did;
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto outcome = VOLT_TRY_IN(
        name_of(unit), uffd_.copy(base + done, bytes.subspan(done), Userfaultfd::Wake::kNo));
    done += outcome.bytes;
    switch (outcome.what) {
      case kAll:
      case kSome:
      case kBusy:  // our mapping raises no events: the mm is changing, ask again
        break;
      case kAlreadyThere:
        return fail(Code::kCorrupt,
                    name_of(unit) + ": a page was there before the pager put it there");
      case kNoSuchRange:
      case kProcessGone:
        return fail(Code::kSystem,
                    name_of(unit) + ": UFFDIO_COPY: the pager's own mapping is gone");
    }
  }
  return {};
}

}  // namespace volt::uffd
