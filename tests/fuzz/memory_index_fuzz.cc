// MemoryIndex on anything, as it came and with its sums put right (a mutation seldom keeps one):
// find(), at() and check_all() agree with each other, and nothing reads outside the file.
#include "formats/memory_index.h"

#include <algorithm>
#include <cstdint>

#include "formats/little_endian.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {
namespace {

// An index that passed check_all() must answer for every entry, and for the units around it.
void expect_consistent(const MemoryIndex& index, std::span<const std::byte> file) {
  std::vector<IndexEntry> entries;
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    const Result<IndexEntry> entry = index.at(i);
    expect(entry.has_value(), "at() gives what check_all() passed");
    const auto found = index.find(entry->unit);
    expect(found && *found == *entry, "find() finds each entry");
    const auto position = index.position_of(entry->unit);
    expect(position && *position == i, "position_of() says where");
    if (i == 0 || entries.back().unit + 1 < entry->unit) {
      const auto between = index.find(entry->unit - 1);
      expect(entry->unit == 0 || (between && !*between), "find() finds nothing between");
    }
    entries.push_back(*entry);
  }
  expect_canonical(file, encode_memory_index(entries, index.unit_bytes()));
}

void fuzz_file(std::span<const std::byte> file) {
  const Result<MemoryIndex> index = MemoryIndex::open(file);
  if (!index) return expect_refusal(index.error(), "index: ");
  // Before anything is checked, as the fault path does.
  for (const std::uint64_t unit : {std::uint64_t{0}, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    const auto found = index->find(unit);
    if (!found) expect_refusal(found.error(), "index: ");
  }
  const Result<> good = index->check_all();
  if (!good) return expect_refusal(good.error(), "index: ");
  expect_consistent(*index, file);
}

// Puts right, from the inside out: digest, block sums, entry count, magic and major, head sum. What
// is behind the last whole entry goes.
void repair(std::vector<std::byte>& file) {
  constexpr char kStart[10] = {'V', 'O', 'L', 'T', 'I', 'D', 'X', 0, 1, 0};
  file.resize(kIndexHeadBytes + whole_blocks(file.size() - kIndexHeadBytes));
  const std::span<std::byte> blocks = std::span(file).subspan(kIndexHeadBytes);
  const SummedBlocks array(blocks, 0);
  std::vector<IndexEntry> entries(array.entries());
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = array.entry<IndexEntry>(i);
  std::memcpy(file.data(), kStart, sizeof kStart);
  store<std::uint64_t>(file.data() + 16, entries.size());
  const Sha256 digest = memory_digest(entries, load<std::uint32_t>(file.data() + 12));
  std::ranges::copy(digest, file.begin() + 32);
  repair_blocks(blocks, block_seed(digest));
  put_head_sum(file);
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  return fuzz_twice(data, size, kIndexHeadBytes, fuzz_file, repair);
}
