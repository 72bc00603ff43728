#include "formats/unit_table.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr FixedHead kHead = {.magic = "VOLTUNT", .title = "unit table", .must_be_zero_at = 24};
constexpr std::size_t kContainerBytes = 40;
constexpr std::size_t kPackIdBytes = 16;  // of a container's id
constexpr std::size_t kSumBytes = sizeof(Xxh128);

struct Head {
  std::uint64_t unit_bytes;
  std::uint64_t entry_count;
  std::uint32_t container_count;
  Sha256 digest;
};

std::size_t containers_bytes(std::size_t count) {
  return count * kContainerBytes + kSumBytes;
}

Result<Head> read_head(std::span<const std::byte> file) {
  VOLT_TRY(check_fixed_head(kHead, file));
  const std::byte* at = file.data();
  Head head = {.unit_bytes = load<std::uint32_t>(at + 12),
               .entry_count = load<std::uint64_t>(at + 16),
               .container_count = load<std::uint32_t>(at + 28),
               .digest = {}};
  std::memcpy(head.digest.data(), at + 32, head.digest.size());
  if (!is_unit_size(head.unit_bytes)) {
    return corrupt("unit_bytes", join({std::to_string(head.unit_bytes),
                                       ", not a power of two from 4 KiB to 2 MiB"}));
  }
  if (const std::uint64_t most = kMaxMemoryBytes / head.unit_bytes; head.entry_count > most) {
    return corrupt("entry_count",
                   join({std::to_string(head.entry_count), ", at most ", std::to_string(most)}));
  }
  if (head.container_count > kMaxContainers) {
    return corrupt("container_count", join({std::to_string(head.container_count), ", at most ",
                                            std::to_string(kMaxContainers)}));
  }
  const std::string whole = join({" a file of ", std::to_string(file.size()), " bytes"});
  const std::uint64_t rest = file.size() - kUnitTableHeadBytes;
  if (containers_bytes(head.container_count) > rest) {
    return corrupt("container_count",
                   join({std::to_string(head.container_count), " does not fit", whole}));
  }
  if (summed_entries(rest - containers_bytes(head.container_count)) != head.entry_count) {
    return corrupt("entry_count", join({std::to_string(head.entry_count), " does not fit", whole}));
  }
  return head;
}

Result<> check_id(const Container& container) {
  const std::span<const std::byte> id = container.id;
  switch (container.kind) {
    case Container::Kind::kLayer:
      return {};
    case Container::Kind::kPack:
      if (!all_zero(id.subspan(kPackIdBytes))) return corrupt("id", "not zero behind a pack's id");
      return {};
  }
  return corrupt("kind",
                 join({std::to_string(std::to_underlying(container.kind)), ", not 1 or 2"}));
}

// The second of two that are alike, if there are any.
std::optional<std::size_t> find_repeated(std::span<const Container> containers) {
  std::vector<std::size_t> order(containers.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto key = [&](std::size_t i) { return std::tie(containers[i].kind, containers[i].id); };
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::tuple_cat(key(a), std::tie(a)) < std::tuple_cat(key(b), std::tie(b));
  });
  const auto first = std::ranges::adjacent_find(
      order, [&](std::size_t a, std::size_t b) { return containers[a] == containers[b]; });
  if (first == order.end()) return std::nullopt;
  return *(first + 1);
}

Result<std::vector<Container>> read_containers(std::span<const std::byte> bytes,
                                               std::uint64_t seed) {
  const std::span<const std::byte> list = bytes.first(bytes.size() - kSumBytes);
  if (!std::ranges::equal(xxh128(list, seed), bytes.last(kSumBytes))) {
    return corrupt("containers", "sum: bytes changed since it was written, or belong elsewhere");
  }
  std::vector<Container> containers(list.size() / kContainerBytes);
  for (std::size_t i = 0; i < containers.size(); ++i) {
    const std::byte* at = list.data() + i * kContainerBytes;
    containers[i].kind = Container::Kind{load<std::uint32_t>(at)};
    std::memcpy(containers[i].id.data(), at + 8, containers[i].id.size());
    VOLT_TRY_IN(number_of("container", i), check_id(containers[i]));
    if (load<std::uint32_t>(at + 4) != 0) {
      return corrupt(number_of("container", i), "reserved: not zero");
    }
  }
  if (const std::optional<std::size_t> i = find_repeated(containers)) {
    return corrupt(number_of("container", *i), "id: that of a container before it");
  }
  return containers;
}

Result<> check_entry(const StoredUnit& unit, std::uint64_t unit_bytes,
                     std::span<const Container> containers) {
  if (unit.container >= containers.size()) {
    return corrupt("container", join({std::to_string(unit.container), ", there are ",
                                      std::to_string(containers.size())}));
  }
  if (unit.stored_bytes == 0 || unit.stored_bytes > unit_bytes) {
    return corrupt("stored_bytes", join({std::to_string(unit.stored_bytes), ", not from 1 to ",
                                         std::to_string(unit_bytes)}));
  }
  if (containers[unit.container].kind == Container::Kind::kLayer &&
      unit.stored_bytes != unit_bytes) {
    return corrupt("stored_bytes", "a layer holds no zstd frames");
  }
  if (unit.offset > kMaxMemoryBytes - unit.stored_bytes) {
    return corrupt("offset", join({std::to_string(unit.offset), ", beyond the limits"}));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_unit_table(std::span<const StoredUnit> units,
                                         std::span<const Container> containers,
                                         const Sha256& memory_digest, std::uint64_t unit_bytes) {
  require(is_unit_size(unit_bytes), "units: unit_bytes");
  require(units.size() <= kMaxMemoryBytes / unit_bytes, "units: too many entries");
  require(containers.size() <= kMaxContainers, "units: too many containers");
  require(!find_repeated(containers), "units: a container twice");
  for (const Container& container : containers) {
    require(check_id(container).has_value(), "units: a container breaks its rules");
  }
  for (const StoredUnit& unit : units) {
    require(check_entry(unit, unit_bytes, containers).has_value(),
            "units: an entry breaks its rules");
  }
  const std::size_t middle = containers_bytes(containers.size());
  std::vector<std::byte> file(kUnitTableHeadBytes + middle + summed_bytes(units.size()));
  store<std::uint32_t>(file.data() + 12, static_cast<std::uint32_t>(unit_bytes));
  store<std::uint64_t>(file.data() + 16, units.size());
  store<std::uint32_t>(file.data() + 28, static_cast<std::uint32_t>(containers.size()));
  std::ranges::copy(memory_digest, file.begin() + 32);
  seal_head(kHead, file);
  const std::uint64_t seed = block_seed(memory_digest);
  const std::span<std::byte> list = std::span(file).subspan(kUnitTableHeadBytes, middle);
  for (std::size_t i = 0; i < containers.size(); ++i) {
    std::byte* to = list.data() + i * kContainerBytes;
    store(to, std::to_underlying(containers[i].kind));
    std::memcpy(to + 8, containers[i].id.data(), containers[i].id.size());
  }
  const Xxh128 sum = xxh128(list.first(middle - kSumBytes), seed);
  std::ranges::copy(sum, list.last(kSumBytes).begin());
  write_blocks(std::as_bytes(units), seed, std::span(file).subspan(kUnitTableHeadBytes + middle));
  return file;
}

Result<UnitTable> UnitTable::open(std::span<const std::byte> file) {
  const Head head = VOLT_TRY_IN("units", read_head(file));
  const std::size_t middle = containers_bytes(head.container_count);
  const std::uint64_t seed = block_seed(head.digest);
  UnitTable table;
  table.containers_ =
      VOLT_TRY_IN("units", read_containers(file.subspan(kUnitTableHeadBytes, middle), seed));
  table.units_ = SummedBlocks(file.subspan(kUnitTableHeadBytes + middle), seed);
  table.unit_bytes_ = head.unit_bytes;
  table.digest_ = head.digest;
  return table;
}

Result<> UnitTable::check_block(std::uint64_t block) const {
  const auto rules = [&](std::uint64_t first, std::uint64_t end) -> Result<> {
    for (std::uint64_t i = first; i < end; ++i) {
      VOLT_TRY_IN(number_of("entry", i),
                  check_entry(units_.entry<StoredUnit>(i), unit_bytes_, containers_));
    }
    return {};
  };
  VOLT_TRY_IN("units", units_.check(block, rules));
  return {};
}

Result<StoredUnit> UnitTable::at(std::uint64_t i) const {
  require(i < entry_count(), "units: at() beyond the last entry");
  VOLT_TRY(check_block(i / kEntriesPerBlock));
  return units_.entry<StoredUnit>(i);
}

Result<> UnitTable::check_all() const {
  for (std::uint64_t block = 0; block < units_.blocks(); ++block) VOLT_TRY(check_block(block));
  return {};
}

}  // namespace volt::formats
