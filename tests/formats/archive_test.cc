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

Result<> read(std::span<const std::byte> file) {
  VOLT_TRY(receive(file));
  return {};
}

std::string error_of(const Bytes& file) {
  const Result<> good = read(file);
  return good ? "none" : good.error().context;
}

std::string section_error(std::uint32_t kind, std::uint64_t bytes) {
  Bytes head(kSectionHeadBytes);
  store(head.data(), kind);
  store(head.data() + 8, bytes);
  const Result<SectionHead> good = decode_section_head(head);
  return good ? "none" : good.error().context;
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

TEST(ArchiveTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(sample_archive(), read);
}

TEST(ArchiveTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(sample_archive(), "archive", read);
}

TEST(ArchiveTest, BytesBehindTheEndAreRefused) {
  Bytes file = sample_archive();
  file.push_back(std::byte{0});
  EXPECT_EQ(error_of(file), "archive: end: bytes behind it");
}

TEST(ArchiveTest, HeadRules) {
  const auto changed = [&](std::size_t at, auto value) {
    const Result<> good = decode_archive_head(with_head(encode_archive_head(), at, value));
    return good ? "none" : good.error().context;
  };
  EXPECT_EQ(changed(0, std::uint8_t{'W'}), "archive: magic: not a Volt archive");
  EXPECT_EQ(changed(8, std::uint16_t{2}), "archive: major: 2, this build reads 1");
  EXPECT_EQ(changed(10, std::uint16_t{77}), "none");
  EXPECT_EQ(changed(12, std::uint32_t{1}), "archive: must_be_zero: 1, needs a newer build");
  EXPECT_EQ(changed(16, std::uint8_t{1}), "archive: reserved: not zero");
  EXPECT_EQ(changed(63, std::uint8_t{1}), "archive: reserved: not zero");
}

TEST(ArchiveTest, SectionsAreOfAKnownKind) {
  EXPECT_EQ(section_error(0, 1000), "archive: section: kind: 0, not from 1 to 6");
  EXPECT_EQ(section_error(7, 1000), "archive: section: kind: 7, not from 1 to 6");
  EXPECT_EQ(section_error(~0U, 1000), "archive: section: kind: 4294967295, not from 1 to 6");
  Bytes head = encode_section_head(Section::kUnit, Bytes(4096));
  head[4] = std::byte{1};
  EXPECT_EQ(decode_section_head(head).error().context, "archive: unit: reserved: not zero");
}

// A section is as long as what it holds can be, so nobody makes room for more.
TEST(ArchiveTest, SectionsAreAsLongAsTheyMayBe) {
  struct Case {
    std::uint32_t kind;
    std::uint64_t least;
    std::uint64_t most;
    const char* name;
  };
  for (const Case& c : {Case{1, 48, 16777264, "manifest"}, Case{2, 48, 16777264, "state"},
                        Case{3, 80, kMaxSectionBytes, "index"}, Case{4, 96, 8388704, "hot set"},
                        Case{5, 1, 2 << 20, "unit"}, Case{6, 32, 32, "end"}}) {
    const std::string range = std::to_string(c.least) + " to " + std::to_string(c.most);
    EXPECT_EQ(section_error(c.kind, c.least), "none");
    EXPECT_EQ(section_error(c.kind, c.most), "none");
    for (const std::uint64_t bytes : {c.least - 1, c.most + 1, ~std::uint64_t{0}}) {
      EXPECT_EQ(section_error(c.kind, bytes), std::string("archive: ") + c.name + ": bytes: " +
                                                  std::to_string(bytes) + ", not from " + range);
    }
  }
}

TEST(ArchiveTest, SumBindsKindAndLengthToTheBytes) {
  const Bytes unit = unit_content(0);
  const SectionHead head = decode_section_head(encode_section_head(Section::kUnit, unit)).value();
  EXPECT_TRUE(check_section(head, unit));
  SectionHead other = head;
  other.kind = Section::kIndex;
  EXPECT_EQ(check_section(other, unit).error().context,
            "archive: index: sum: bytes changed since it was written");
  EXPECT_EQ(check_section(head, std::span(unit).first(4095)).error().context,
            "archive: unit: bytes: 4096, there are 4095");
}

// Every kind at every place: one right step each, two behind the index.
TEST(SectionOrderTest, EveryWrongStepIsRefused) {
  const std::vector<Section> right = {Section::kManifest, Section::kState, Section::kIndex,
                                      Section::kHotSet,   Section::kUnit,  Section::kUnit,
                                      Section::kEnd};
  for (std::size_t done = 0; done <= right.size(); ++done) {
    SectionOrder order;
    order.expect_units(2);
    for (std::size_t i = 0; i < done; ++i) ASSERT_TRUE(order.next(right[i]));
    EXPECT_EQ(order.at_end(), done == right.size());
    for (std::uint32_t kind = 0; kind <= 7; ++kind) {
      const bool may_follow = (done < right.size() && Section{kind} == right[done]) ||
                              (done == 3 && Section{kind} == Section::kUnit);
      SectionOrder copy = order;
      const Result<> next = copy.next(Section{kind});
      EXPECT_EQ(next.has_value(), may_follow) << kind << " after " << done;
      EXPECT_TRUE(next || next.error().code == Code::kCorrupt);
    }
  }
}

TEST(SectionOrderTest, ErrorsSayWhatWasExpected) {
  SectionOrder order;
  order.expect_units(1);
  const auto error = [&](Section kind) { return order.next(kind).error().context; };
  EXPECT_EQ(error(Section::kState), "archive: section: state, expected manifest");
  ASSERT_TRUE(order.next(Section::kManifest));
  EXPECT_EQ(error(Section::kManifest), "archive: section: manifest, expected state");
  ASSERT_TRUE(order.next(Section::kState));
  EXPECT_EQ(error(Section{9}), "archive: section: of no kind, expected index");
  ASSERT_TRUE(order.next(Section::kIndex));
  EXPECT_EQ(error(Section::kEnd), "archive: section: end, expected unit");
  ASSERT_TRUE(order.next(Section::kUnit));
  EXPECT_EQ(error(Section::kUnit), "archive: section: unit, expected end");
  EXPECT_EQ(error(Section::kHotSet), "archive: section: hot set, expected end");
  ASSERT_TRUE(order.next(Section::kEnd));
  EXPECT_EQ(error(Section::kEnd), "archive: section: end, expected nothing more");
}

TEST(SectionOrderTest, MemoryOfZerosHasNoUnits) {
  SectionOrder order;
  for (const Section kind : {Section::kManifest, Section::kState, Section::kIndex}) {
    ASSERT_TRUE(order.next(kind));
  }
  order.expect_units(0);
  EXPECT_TRUE(order.next(Section::kEnd));
  EXPECT_TRUE(order.at_end());
}

TEST(SectionOrderDeathTest, NobodySaidHowManyUnits) {
  SectionOrder order;
  for (const Section kind : {Section::kManifest, Section::kState, Section::kIndex}) {
    ASSERT_TRUE(order.next(kind));
  }
  EXPECT_DEATH(static_cast<void>(order.next(Section::kEnd)), "nobody said how many units");
}

TEST(ArchiveTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_archive.vsnap");
  const Result<Sent> sent = receive(file);
  ASSERT_TRUE(sent) << sent.error().context;
  ASSERT_EQ(sent->bytes.size(), 8);
  const MemoryIndex index = MemoryIndex::open(sent->bytes[2]).value();
  EXPECT_EQ(index.digest(), decode_hot_set(sent->bytes[3]).value().digest);
  EXPECT_EQ(sent->bytes[5], frame_of(std::byte{'b'}));
  Bytes again = encode_archive_head();
  for (std::size_t i = 0; i < 8; ++i) add_section(again, sent->kinds[i], sent->bytes[i]);
  EXPECT_EQ(again, file);
  EXPECT_EQ(sample_archive(), file);
}

}  // namespace
}  // namespace volt::formats
