#include "snapshot/working_set.h"

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "snapshot/clone_pages.h"
#include "snapshot/memory_writer.h"
#include "vmm/guest_abi.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// Where the working set is in the memory file: one range, whatever hole there is in the guest's
// addresses.
Result<std::uint64_t> working_set_place(const vmm::GuestMemory& memory,
                                        const formats::v1::Guest& guest) {
  return place_of(memory, guest_abi::working_set_page(guest.working_set_base(), 0));
}

struct Sums {
  std::uint64_t health;  // the guest calls its first page so
  std::uint64_t all;
};

// Over `bytes`, a number of pages, which `read` gives part by part.
Result<Sums> sum_pages(
    std::uint64_t bytes,
    const std::function<Result<>(std::uint64_t at, std::span<std::byte> into)>& read) {
  guest_abi::Checksum sum;
  Sums sums = {sum.value(), sum.value()};
  std::vector<std::uint64_t> words(16 * guest_abi::kPageBytes / 8);
  for (std::uint64_t at = 0; at < bytes;) {
    const auto part =
        std::as_writable_bytes(std::span(words)).first(std::min(words.size() * 8, bytes - at));
    VOLT_TRY(read(at, part));
    const std::size_t health = at == 0 ? guest_abi::kPageBytes / 8 : 0;
    sum.add_block(words.data(), health);
    if (at == 0) sums.health = sum.value();
    sum.add_block(words.data() + health, part.size() / 8 - health);
    at += part.size();
  }
  sums.all = sum.value();
  return sums;
}

std::uint64_t whole_pages(std::uint64_t bytes) {
  return bytes / guest_abi::kPageBytes * guest_abi::kPageBytes;
}

}  // namespace

Result<bool> overlaps_working_set(const vmm::GuestMemory& memory, const formats::v1::Guest& guest,
                                  std::span<const std::uint64_t> units, std::uint64_t unit_bytes) {
  if (guest.working_set_bytes() == 0) return false;
  const std::uint64_t first = VOLT_TRY(working_set_place(memory, guest));
  for (const std::uint64_t unit : units) {
    const std::uint64_t place = VOLT_TRY(place_of(memory, unit));
    if (place < first + guest.working_set_bytes() && first < place + unit_bytes) return true;
  }
  return false;
}

Result<> sum_working_set(const vmm::GuestMemory& memory, const Fd& file,
                         formats::v1::Guest& guest) {
  const std::uint64_t bytes = whole_pages(guest.working_set_bytes());
  const std::uint64_t first = bytes == 0 ? 0 : VOLT_TRY(working_set_place(memory, guest));
  const Sums sums =
      VOLT_TRY(sum_pages(bytes, [&](std::uint64_t at, std::span<std::byte> into) -> Result<> {
        return read_exact(file, into, first + at, kMemoryFile);
      }));
  guest.set_health_checksum(sums.health);
  guest.set_working_set_checksum(sums.all);
  return {};
}

Result<> sum_changed_working_set(const vmm::GuestMemory& memory, const Fd& file,
                                 std::span<const std::uint64_t> changed, std::uint64_t unit_bytes,
                                 formats::v1::Guest& guest) {
  guest.set_working_set_checksum(0);
  const std::uint64_t page = guest_abi::working_set_page(guest.working_set_base(), 0);
  if (!std::ranges::binary_search(changed, page / unit_bytes * unit_bytes)) return {};
  const std::uint64_t first = VOLT_TRY(working_set_place(memory, guest));
  const Sums sums = VOLT_TRY(sum_pages(guest_abi::kPageBytes, [&](std::uint64_t, auto into) {
    return read_exact(file, into, first, kMemoryFile);
  }));
  guest.set_health_checksum(sums.health);
  return {};
}

Result<std::uint64_t> working_set_sum(const OpenedSnapshot& snapshot) {
  const formats::v1::Guest& guest = snapshot.manifest().guest();
  ParentUnits units = VOLT_TRY(ParentUnits::of(snapshot));
  const auto read = [&](std::uint64_t at, std::span<std::byte> into) -> Result<> {
    for (std::size_t i = 0; i < into.size(); i += guest_abi::kPageBytes) {
      const std::uint64_t page = (at + i) / guest_abi::kPageBytes;
      VOLT_TRY(units.read_range(guest_abi::working_set_page(guest.working_set_base(), page),
                                into.subspan(i, guest_abi::kPageBytes)));
    }
    return {};
  };
  const Sums sums = VOLT_TRY(sum_pages(whole_pages(guest.working_set_bytes()), read));
  return sums.all;
}

}  // namespace volt::snapshot
