// Pack head, tail and table on anything, as they came and with sums and order put right: find(),
// at() and check_all() agree, every unit lies between head and table, nothing reads outside.
#include "formats/pack.h"

#include <algorithm>
#include <cstdint>

#include "formats/little_endian.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {
namespace {

bool below(const PackRecord& a, const PackRecord& b) {
  return a.sum != b.sum ? a.sum < b.sum : a.offset < b.offset;
}

// A table that passed check_all() must answer for every record, with the first of its sum.
void expect_consistent(const PackTable& table, const PackTail& tail,
                       std::span<const std::byte> file) {
  std::vector<PackRecord> records;
  PackRecord first = {};  // with the sum of the last
  for (std::uint64_t i = 0; i < table.record_count(); ++i) {
    const Result<PackRecord> record = table.at(i);
    expect(record.has_value(), "at() gives what check_all() passed");
    expect(record->offset >= kPackHeadBytes && record->offset <= tail.table_offset &&
               record->stored_bytes <= tail.table_offset - record->offset,
           "the unit lies between head and table");
    if (i == 0 || record->sum != first.sum) first = *record;
    const auto found = table.find(record->sum);
    expect(found && *found == first, "find() finds the first");
    records.push_back(*record);
  }
  const std::vector<std::byte> written = encode_pack_table(tail.id, records, tail.table_offset);
  expect(std::ranges::equal(written, file.subspan(tail.table_offset)), "writing is canonical");
}

void fuzz_head(std::span<const std::byte> file) {
  const Result<PackId> id = decode_pack_head(file);
  if (!id) return expect_refusal(id.error(), "pack: ");
  expect_canonical(file.first(kPackHeadBytes), encode_pack_head(*id));
}

void fuzz_file(std::span<const std::byte> file) {
  fuzz_head(file);
  const auto last = file.last(std::min(file.size(), kPackTailBytes));
  const Result<PackTail> tail = decode_pack_tail(last, file.size());
  if (!tail) return expect_refusal(tail.error(), "pack: tail: ");
  const auto behind = file.subspan(tail->table_offset);
  const Result<PackTable> table =
      PackTable::open(behind.first(behind.size() - kPackTailBytes), *tail);
  expect(table.has_value(), "a tail that was passed gives a table");
  // Before anything is checked, as a packer does.
  const Result<std::optional<PackRecord>> found = table->find(Xxh128{std::byte{0x80}});
  if (!found) expect_refusal(found.error(), "pack: ");
  const Result<> good = table->check_all();
  if (!good) return expect_refusal(good.error(), "pack: ");
  expect_consistent(*table, *tail, file);
}

// Puts right magics and major, the tail's idea of the table, the records' order and every sum. The
// table begins where the tail says, or as much later as whole records take.
void repair(std::span<std::byte> file) {
  constexpr char kStart[10] = {'V', 'O', 'L', 'T', 'P', 'A', 'K', 0, 1, 0};
  constexpr char kTailStart[8] = "VOLTPKT";
  const std::span<std::byte> tail = file.last(kPackTailBytes);
  const std::size_t tail_at = file.size() - kPackTailBytes;
  const auto claimed = load<std::uint64_t>(tail.data() + 16);
  const std::size_t earliest = std::clamp<std::size_t>(claimed, kPackHeadBytes, tail_at);
  const std::span<std::byte> table = file.first(tail_at).last(whole_blocks(tail_at - earliest));
  const SummedBlocks array(table, 0);
  std::vector<PackRecord> records(array.entries());
  for (std::size_t i = 0; i < records.size(); ++i) records[i] = array.entry<PackRecord>(i);
  std::ranges::sort(records, below);
  std::memcpy(file.data(), kStart, sizeof kStart);
  std::memcpy(tail.data(), kTailStart, sizeof kTailStart);
  store<std::uint64_t>(tail.data() + 8, records.size());
  store<std::uint64_t>(tail.data() + 16, tail_at - table.size());
  write_blocks(std::as_bytes(std::span(records)), block_seed(tail.subspan(32)), table);
  put_head_sum(file);
  put_head_sum(tail);
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  return fuzz_twice(data, size, kPackHeadBytes + kPackTailBytes, fuzz_file, repair);
}
