// The page source of raw snapshots: units read from the memory file, each checked against the
// index.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "snapshot/opened.h"
#include "uffd/page_source.h"

namespace volt::snapshot {

// Answers before request() returns, on the asking thread: a read from the page cache is quicker
// than handing it to another thread. (From a cold disk it is not, and its deadline is not watched.)
// Units count from the start of the memory file.
class RawSource final : public uffd::PageSource {
 public:
  explicit RawSource(std::shared_ptr<const OpenedSnapshot> snapshot);

  void request(std::span<const uffd::UnitRange> units, uffd::Priority priority,
               uffd::UnitSink& done) override;

 private:
  using Buffer = std::unique_ptr<std::byte[]>;
  Buffer take_buffer();
  void give_back(Buffer buffer);
  Result<std::span<const std::byte>> read(std::uint64_t unit, std::span<std::byte> buffer) const;

  std::shared_ptr<const OpenedSnapshot> snapshot_;
  const std::vector<std::byte> zeros_;
  std::mutex mutex_;
  std::vector<Buffer> buffers_;  // not in use: as many as there ever were requests at once
};

}  // namespace volt::snapshot
