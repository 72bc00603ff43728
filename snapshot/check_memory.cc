#include "snapshot/check_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "snapshot/ordered_work.h"
#include "snapshot/unit_reader.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// [from, to) of the memory file holds nothing but zeros. Holes are skipped, not read.
Result<std::uint64_t> check_zero(const Fd& memory, std::uint64_t from, std::uint64_t to,
                                 std::span<std::byte> buffer) {
  std::uint64_t read = 0;
  while (from < to) {
    const off_t data = ::lseek(memory.get(), static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return sys_error("lseek", kMemoryFile);
    from = static_cast<std::uint64_t>(data);
    if (from >= to) break;
    const auto part = buffer.first(std::min<std::uint64_t>(buffer.size(), to - from));
    VOLT_TRY(read_exact(memory, part, from, kMemoryFile));
    const auto other =
        std::find_if(part.begin(), part.end(), [](std::byte b) { return b != std::byte{0}; });
    if (other != part.end()) {
      return fail(Code::kCorrupt,
                  "memory: byte " +
                      std::to_string(from + static_cast<std::uint64_t>(other - part.begin())) +
                      ": not zero, though the index has no unit there");
    }
    from += part.size();
    read += part.size();
  }
  return read;
}

Result<std::uint64_t> check_units(const OpenedSnapshot& snapshot) {
  const auto check = [](UnitReader& reader, std::uint64_t i) -> Result<> {
    VOLT_TRY(reader.read(i));
    return {};
  };
  VOLT_TRY(for_each_unit(snapshot, default_threads(), check));
  std::uint64_t bytes = 0;
  for (std::uint64_t i = 0; i < snapshot.index().entry_count(); ++i) {
    const UnitPlace place = VOLT_TRY(place_of(snapshot, snapshot.index(), i));
    bytes += place.stored_bytes;
  }
  return bytes;
}

}  // namespace

Result<std::uint64_t> check_gaps(const OpenedSnapshot& snapshot,
                                 const formats::MemoryIndex& index) {
  std::vector<std::byte> buffer(index.unit_bytes());
  std::uint64_t read = 0;
  std::uint64_t end = 0;  // of what has been looked at
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    VOLT_TRY(vmm::check_stop());
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    read += VOLT_TRY(check_zero(snapshot.memory(), end, entry.place, buffer));
    end = entry.place + index.unit_bytes();
  }
  read += VOLT_TRY(check_zero(snapshot.memory(), end, snapshot.memory_bytes(), buffer));
  return read;
}

Result<> check_zero_at(const OpenedSnapshot& snapshot, std::uint64_t address, std::uint64_t bytes) {
  std::vector<std::byte> buffer(bytes);
  for (const formats::v1::Region& region : snapshot.manifest().memory().regions()) {
    const std::uint64_t into = address - region.guest_base();  // wraps where it is not inside
    if (into >= region.size_bytes()) continue;
    const std::uint64_t place = region.file_offset() + into;
    [[maybe_unused]] const std::uint64_t read =
        VOLT_TRY(check_zero(snapshot.memory(), place, place + bytes, buffer));
  }
  return {};
}

Result<Verified> check_memory(const OpenedSnapshot& snapshot) {
  VOLT_TRY(snapshot.check_agreement());
  Verified verified;
  verified.bytes_read = VOLT_TRY(check_units(snapshot));
  verified.units = snapshot.index().entry_count();
  if (snapshot.is_raw()) verified.bytes_read += VOLT_TRY(check_gaps(snapshot, snapshot.index()));
  return verified;
}

}  // namespace volt::snapshot
