// The page source of raw snapshots: units read from the memory file, each checked against the
// index.
#pragma once

#include <memory>
#include <vector>

#include "snapshot/opened.h"
#include "snapshot/unit_reader.h"
#include "uffd/page_source.h"

namespace volt::snapshot {

// Answers before request() returns, on the asking thread: a read from the page cache is quicker
// than handing it to another thread. Units count from the start of the memory file.
class RawSource final : public uffd::PageSource {
 public:
  explicit RawSource(std::shared_ptr<const OpenedSnapshot> snapshot);

  void request(std::span<const uffd::UnitRange> units, uffd::Priority priority,
               uffd::UnitSink& done) override;

 private:
  Result<std::span<const std::byte>> read(std::uint64_t unit);

  std::shared_ptr<const OpenedSnapshot> snapshot_;
  UnitReader reader_;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> zeros_;
};

}  // namespace volt::snapshot
