// The bytes of a file that is searched in place: read when it is short, mapped when reading all of
// it would make opening cost what the file is long. For files that are written once.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/os/mapping.h"

namespace volt::snapshot {

class FileView {
 public:
  static Result<FileView> of(const Fd& file, std::uint64_t size, std::string_view name);
  std::span<const std::byte> bytes() const {
    return mapped_ == nullptr ? std::span<const std::byte>(read_) : mapped_->bytes();
  }

 private:
  std::vector<std::byte> read_;
  std::unique_ptr<Mapping> mapped_;
};

}  // namespace volt::snapshot
