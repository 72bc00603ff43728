#include "formats/pack.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

// The table and tail of a whole file, as an opener finds them.
Result<PackTable> open(std::span<const std::byte> file) {
  const std::span<const std::byte> last = file.last(std::min(file.size(), kPackTailBytes));
  const PackTail tail = VOLT_TRY(decode_pack_tail(last, file.size()));
  const PackId id = VOLT_TRY(decode_pack_head(file.first(kPackHeadBytes)));
  if (id != tail.id) return fail(Code::kCorrupt, "pack: tail: id: not the head's");
  return PackTable::open(file.subspan(tail.table_offset, summed_bytes(tail.record_count)), tail);
}

TEST(PackTest, GivesWhatWasWritten) {
  for (const std::size_t n : {0UZ, 1UZ, 127UZ, 128UZ, 129UZ, 1000UZ}) {
    const std::vector<PackRecord> records = sample_records(n);
    const Bytes file = sample_pack(n);
    const Result<PackTable> table = open(file);
    ASSERT_TRUE(table) << table.error().context;
    ASSERT_EQ(table->record_count(), n);
    EXPECT_EQ(table->id(), sample_pack_id());
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(table->at(i).value(), records[i]);
    EXPECT_TRUE(table->check_all());
  }
}

}  // namespace
}  // namespace volt::formats
