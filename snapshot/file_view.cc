#include "snapshot/file_view.h"

#include <sys/mman.h>

#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// Reading this much costs no more than a mapping and the faults of its first few pages.
constexpr std::uint64_t kReadBytes = 256 << 10;

}  // namespace

Result<FileView> FileView::of(const Fd& file, std::uint64_t size, std::string_view name) {
  FileView view;
  if (size <= kReadBytes) {
    view.read_.resize(size);
    VOLT_TRY(read_exact(file, view.read_, 0, name));
    return view;
  }
  view.mapped_ = std::make_unique<Mapping>(
      VOLT_TRY(Mapping::create(size, PROT_READ, MAP_PRIVATE, file.get(), 0, "index")));
  return view;
}

}  // namespace volt::snapshot
