// MemoryIndex on anything, as it came and with its sums put right (a mutation seldom keeps one):
// find(), at() and check_all() agree with each other, and nothing reads outside the file.
#include "formats/memory_index.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "formats/digest.h"
#include "formats/little_endian.h"

namespace volt::formats {
namespace {

constexpr std::size_t kSumBytes = sizeof(Xxh128);

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

void expect_refusal(const Error& error) {
  expect(error.code == Code::kCorrupt || error.code == Code::kUnsupported, "the code is of two");
  expect(error.context.starts_with("index: "), "the error names the file");
}

// An index that passed check_all() must answer for every entry, and for the units around it.
void expect_consistent(const MemoryIndex& index, std::span<const std::byte> file) {
  std::vector<IndexEntry> entries;
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    const Result<IndexEntry> entry = index.at(i);
    expect(entry.has_value(), "at() gives what check_all() passed");
    const auto found = index.find(entry->unit);
    expect(found && *found == *entry, "find() finds each entry");
    if (i == 0 || entries.back().unit + 1 < entry->unit) {
      const auto between = index.find(entry->unit - 1);
      expect(entry->unit == 0 || (between && !*between), "find() finds nothing between");
    }
    entries.push_back(*entry);
  }
  const std::vector<std::byte> written = encode_memory_index(entries, index.unit_bytes());
  const std::uint16_t minor = load<std::uint16_t>(file.data() + 10);
  expect(minor != 0 || std::ranges::equal(written, file), "writing is canonical");
}

void fuzz_file(std::span<const std::byte> file) {
  const Result<MemoryIndex> index = MemoryIndex::open(file);
  if (!index) return expect_refusal(index.error());
  // Before anything is checked, as the fault path does.
  for (const std::uint64_t unit : {std::uint64_t{0}, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    const auto found = index->find(unit);
    if (!found) expect_refusal(found.error());
  }
  const Result<> good = index->check_all();
  if (!good) return expect_refusal(good.error());
  expect_consistent(*index, file);
}

// The entries that the bytes hold, as far as open() will let them stand.
std::vector<IndexEntry> entries_in(std::span<const std::byte> file) {
  std::vector<IndexEntry> entries;
  for (std::size_t at = kIndexHeadBytes; at < file.size(); at += kBlockBytes) {
    const std::size_t block = std::min(kBlockBytes, file.size() - at);
    for (std::size_t e = 0; e + sizeof(IndexEntry) + kSumBytes <= block; e += sizeof(IndexEntry)) {
      std::memcpy(&entries.emplace_back(), file.data() + at + e, sizeof(IndexEntry));
    }
  }
  return entries;
}

// Puts right, from the inside out: digest, block sums, entry count, magic and major, head sum.
void repair(std::span<std::byte> file) {
  constexpr char kStart[10] = {'V', 'O', 'L', 'T', 'I', 'D', 'X', 0, 1, 0};
  const std::vector<IndexEntry> entries = entries_in(file);
  std::memcpy(file.data(), kStart, sizeof kStart);
  store<std::uint64_t>(file.data() + 16, entries.size());
  const Sha256 digest = memory_digest(entries, load<std::uint32_t>(file.data() + 12));
  std::ranges::copy(digest, file.begin() + 32);
  const auto seed = load<std::uint64_t>(digest.data());
  for (std::size_t at = kIndexHeadBytes, i = 0; at < file.size(); at += kBlockBytes, ++i) {
    const std::span<std::byte> block = file.subspan(at, std::min(kBlockBytes, file.size() - at));
    if (block.size() <= kSumBytes) break;
    const Xxh128 sum = xxh128(block.first(block.size() - kSumBytes), seed + i);
    std::ranges::copy(sum, block.last(kSumBytes).begin());
  }
  std::ranges::copy(xxh128(file.first(64)), file.begin() + 64);
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  const auto input = std::as_bytes(std::span(data, size));
  fuzz_file(input);
  if (size < kIndexHeadBytes) return 0;
  std::vector<std::byte> repaired(input.begin(), input.end());
  repair(repaired);
  fuzz_file(repaired);
  return 0;
}
