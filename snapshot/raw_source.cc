#include "snapshot/raw_source.h"

#include <optional>

namespace volt::snapshot {

RawSource::RawSource(std::shared_ptr<const OpenedSnapshot> snapshot)
    : snapshot_(std::move(snapshot)),
      reader_(*snapshot_),
      buffer_(snapshot_->index().unit_bytes()),
      zeros_(snapshot_->index().unit_bytes()) {}

void RawSource::request(std::span<const uffd::UnitRange> units, uffd::Priority,
                        uffd::UnitSink& done) {
  for (const uffd::UnitRange& range : units) {
    for (std::uint64_t unit = range.first; unit < range.first + range.count; ++unit) {
      const auto bytes = read(unit);
      if (bytes) {
        done.filled(unit, *bytes);
      } else {
        done.failed(unit, bytes.error());
      }
    }
  }
}

Result<std::span<const std::byte>> RawSource::read(std::uint64_t unit) {
  const formats::MemoryIndex& index = snapshot_->index();
  const std::uint64_t address = snapshot_->guest_address(unit * index.unit_bytes());
  const auto entry = VOLT_TRY(index.position_of(address / index.unit_bytes()));
  if (!entry) return zeros_;
  VOLT_TRY(reader_.read(*entry, buffer_));
  return buffer_;
}

}  // namespace volt::snapshot
