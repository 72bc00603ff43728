#include "snapshot/raw_source.h"

#include <optional>

namespace volt::snapshot {

RawSource::RawSource(std::shared_ptr<const OpenedSnapshot> snapshot)
    : snapshot_(std::move(snapshot)), zeros_(snapshot_->index().unit_bytes()) {}

RawSource::Buffer RawSource::take_buffer() {
  {
    const std::lock_guard lock(mutex_);
    if (!buffers_.empty()) {
      Buffer buffer = std::move(buffers_.back());
      buffers_.pop_back();
      return buffer;
    }
  }
  return std::make_unique_for_overwrite<std::byte[]>(zeros_.size());
}

void RawSource::give_back(Buffer buffer) {
  const std::lock_guard lock(mutex_);
  buffers_.push_back(std::move(buffer));
}

void RawSource::request(std::span<const uffd::UnitRange> units, uffd::Priority,
                        uffd::UnitSink& done) {
  Buffer buffer = take_buffer();
  for (const uffd::UnitRange& range : units) {
    for (std::uint64_t unit = range.first; unit < range.first + range.count; ++unit) {
      const auto bytes = read(unit, {buffer.get(), zeros_.size()});
      if (bytes) {
        done.filled(unit, *bytes);
      } else {
        done.failed(unit, bytes.error());
      }
    }
  }
  give_back(std::move(buffer));
}

Result<std::span<const std::byte>> RawSource::read(std::uint64_t unit,
                                                   std::span<std::byte> buffer) const {
  const formats::MemoryIndex& index = snapshot_->index();
  const std::uint64_t address = snapshot_->guest_address(unit * index.unit_bytes());
  const auto entry = VOLT_TRY(index.find(address / index.unit_bytes()));
  if (!entry) return zeros_;
  VOLT_TRY(snapshot_->read_unit(*entry, buffer));
  return buffer;
}

}  // namespace volt::snapshot
