// UnitTable on anything, as it came and with its sums put right: at() and check_all() agree, what
// they pass obeys the rules, and nothing reads outside the file.
#include "formats/unit_table.h"

#include <algorithm>
#include <cstdint>

#include "formats/little_endian.h"
#include "formats/manifest.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {
namespace {

constexpr std::size_t kContainerBytes = 40;
constexpr std::size_t kSumBytes = sizeof(Xxh128);

void expect_obedient(const UnitTable& table, const StoredUnit& unit) {
  expect(unit.container < table.containers().size(), "the container is there");
  expect(unit.stored_bytes > 0 && unit.stored_bytes <= table.unit_bytes(), "stored_bytes");
  expect(unit.offset <= kMaxMemoryBytes - unit.stored_bytes, "the unit ends below the limit");
}

void fuzz_file(std::span<const std::byte> file) {
  const Result<UnitTable> table = UnitTable::open(file);
  if (!table) return expect_refusal(table.error(), "units: ");
  std::vector<StoredUnit> units;
  for (std::uint64_t i = 0; i < table->entry_count(); ++i) {
    const Result<StoredUnit> unit = table->at(i);
    if (!unit) {
      expect_refusal(unit.error(), "units: ");
      i |= kEntriesPerBlock - 1;  // on to the next block
      continue;
    }
    expect_obedient(*table, *unit);
    units.push_back(*unit);
  }
  const Result<> good = table->check_all();
  expect(good.has_value() == (units.size() == table->entry_count()), "at() and check_all() agree");
  if (!good) return expect_refusal(good.error(), "units: ");
  expect_canonical(
      file, encode_unit_table(units, table->containers(), table->digest(), table->unit_bytes()));
}

// Puts right magic and major, the two counts and every sum. What is behind the last whole entry
// goes. The file must have room for a head and a sum.
void repair(std::vector<std::byte>& file) {
  constexpr char kStart[10] = {'V', 'O', 'L', 'T', 'U', 'N', 'T', 0, 1, 0};
  const std::size_t room = (file.size() - kUnitTableHeadBytes - kSumBytes) / kContainerBytes;
  const std::size_t containers = std::min<std::size_t>(load<std::uint32_t>(file.data() + 28), room);
  const std::size_t middle = containers * kContainerBytes + kSumBytes;
  const std::size_t blocks_at = kUnitTableHeadBytes + middle;
  file.resize(blocks_at + whole_blocks(file.size() - blocks_at));
  const std::span<std::byte> blocks = std::span(file).subspan(blocks_at);
  std::memcpy(file.data(), kStart, sizeof kStart);
  store<std::uint32_t>(file.data() + 28, static_cast<std::uint32_t>(containers));
  store<std::uint64_t>(file.data() + 16, *summed_entries(blocks.size()));
  const std::uint64_t seed = block_seed(std::span(file).subspan(32));
  const std::span<std::byte> list = std::span(file).subspan(kUnitTableHeadBytes, middle);
  std::ranges::copy(xxh128(list.first(middle - kSumBytes), seed), list.last(kSumBytes).begin());
  repair_blocks(blocks, seed);
  put_head_sum(file);
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  return fuzz_twice(data, size, kUnitTableHeadBytes + sizeof(Xxh128), fuzz_file, repair);
}
