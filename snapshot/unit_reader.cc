#include "snapshot/unit_reader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// What a thread takes at a time, in raw bytes.
constexpr std::uint64_t kItemBytes = 512 << 10;

std::unexpected<Error> damaged(const UnitPlace& place, std::uint64_t unit, std::string_view how) {
  return fail(Code::kCorrupt, std::string(place.file) + ": unit " + std::to_string(unit) +
                                  " at file offset " + std::to_string(place.offset) + ": " +
                                  std::string(how));
}

}  // namespace

Result<UnitPlace> place_of(const OpenedSnapshot& snapshot, const formats::MemoryIndex& index,
                           std::uint64_t i) {
  if (snapshot.is_raw()) {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const auto bytes = static_cast<std::uint32_t>(index.unit_bytes());
    return UnitPlace{&snapshot.memory(), kMemoryFile, entry.place, bytes};
  }
  const formats::StoredUnit unit = VOLT_TRY(snapshot.units().at(i));
  const OpenedSnapshot::Container& container = snapshot.containers()[unit.container];
  return UnitPlace{&container.file, container.name.c_str(), unit.offset, unit.stored_bytes};
}

Result<> UnitReader::read(std::uint64_t i, std::span<std::byte> into) {
  const UnitPlace place = VOLT_TRY(place_of(snapshot_, index_, i));
  std::span<std::byte> stored = into;
  if (place.stored_bytes != into.size()) {
    stored_.resize(into.size());
    stored = std::span(stored_).first(place.stored_bytes);
  }
  VOLT_TRY(read_exact(*place.fd, stored, place.offset, place.file));
  return accept(i, stored, into);
}

Result<std::span<const std::byte>> UnitReader::read(std::uint64_t i) {
  unit_.resize(index_.unit_bytes());
  VOLT_TRY(read(i, unit_));
  return unit_;
}

// What is stored is checked before it is decoded: a decoder is no place for damaged bytes. What
// comes out is checked against the index: the right bytes of another unit are wrong here.
Result<> UnitReader::accept(std::uint64_t i, std::span<const std::byte> stored,
                            std::span<std::byte> into) {
  const formats::IndexEntry entry = VOLT_TRY(index_.at(i));
  const UnitPlace place = VOLT_TRY(place_of(snapshot_, index_, i));
  if (stored.size() != into.size()) {
    const formats::StoredUnit unit = VOLT_TRY(snapshot_.units().at(i));
    if (formats::xxh128(stored) != unit.sum) {
      return damaged(place, entry.unit, "bytes changed since it was written");
    }
    if (Result<> decoded = decoder_.decode(stored, into); !decoded) {
      return damaged(place, entry.unit, decoded.error().context);
    }
  } else if (stored.data() != into.data()) {
    std::memcpy(into.data(), stored.data(), into.size());
  }
  if (formats::xxh128(into) == entry.sum) return {};
  return damaged(place, entry.unit, "bytes changed since it was written");
}

Result<> for_each_unit(const OpenedSnapshot& snapshot, unsigned threads,
                       const std::function<Result<>(UnitReader&, std::uint64_t i)>& use) {
  const std::uint64_t entries = snapshot.index().entry_count();
  const std::uint64_t per_item =
      std::max<std::uint64_t>(1, kItemBytes / snapshot.index().unit_bytes());
  const std::uint64_t items = (entries + per_item - 1) / per_item;
  const auto use_item = [&](UnitReader& reader, std::uint64_t number) -> Result<> {
    VOLT_TRY(vmm::check_stop());
    const std::uint64_t end = std::min((number + 1) * per_item, entries);
    for (std::uint64_t i = number * per_item; i < end; ++i) VOLT_TRY(use(reader, i));
    return {};
  };
  std::atomic<std::uint64_t> next = 0;
  std::mutex mutex;
  Result<> outcome;
  const auto work = [&] {
    UnitReader reader(snapshot);
    for (std::uint64_t item = next++; item < items; item = next++) {
      Result<> used = use_item(reader, item);
      if (used) continue;
      next = items;
      const std::lock_guard lock(mutex);
      if (outcome) outcome = std::move(used);
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (std::uint64_t t = 1; t < std::min<std::uint64_t>(threads, items); ++t) {
      helpers.emplace_back(work);
    }
    work();
  }
  return outcome;
}

}  // namespace volt::snapshot
