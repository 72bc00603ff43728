#include "formats/archive.h"

#include <gtest/gtest.h>

#include "tests/formats/stored_samples.h"

namespace volt::formats {
namespace {

struct Sent {
  std::vector<Section> kinds;
  std::vector<Bytes> bytes;
};

// Reads an archive front to back as a receiver does: each section checked before it is used.
Result<Sent> receive(std::span<const std::byte> file) {
  Sent sent;
  SectionOrder order;
  VOLT_TRY(decode_archive_head(file));
  std::size_t at = kArchiveHeadBytes;
  while (!order.at_end()) {
    const std::size_t begin = at;
    const SectionHead head = VOLT_TRY(decode_section_head(file.subspan(at)));
    at += kSectionHeadBytes;
    VOLT_TRY(order.next(head.kind));
    const auto bytes = file.subspan(at, std::min<std::size_t>(head.bytes, file.size() - at));
    VOLT_TRY(check_section(head, bytes));
    at += bytes.size();
    if (head.kind == Section::kIndex) {
      const MemoryIndex index = VOLT_TRY(MemoryIndex::open(bytes));
      order.expect_units(index.entry_count());
    }
    if (head.kind == Section::kEnd && !std::ranges::equal(bytes, sha256(file.first(begin)))) {
      return fail(Code::kCorrupt, "archive: end: another archive's name");
    }
    sent.kinds.push_back(head.kind);
    sent.bytes.emplace_back(bytes.begin(), bytes.end());
  }
  if (at != file.size()) return fail(Code::kCorrupt, "archive: end: bytes behind it");
  return sent;
}

TEST(ArchiveTest, GivesWhatWasWritten) {
  const Result<Sent> sent = receive(sample_archive());
  ASSERT_TRUE(sent) << sent.error().context;
  EXPECT_EQ(sent->kinds,
            (std::vector{Section::kManifest, Section::kState, Section::kIndex, Section::kHotSet,
                         Section::kUnit, Section::kUnit, Section::kUnit, Section::kEnd}));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(sent->bytes[4 + i], stored_form(i));
  EXPECT_TRUE(decode_manifest(sent->bytes[0]));
  EXPECT_TRUE(decode_hot_set(sent->bytes[3]));
}

}  // namespace
}  // namespace volt::formats
