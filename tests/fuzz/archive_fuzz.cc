// An archive's head, sections and their order on anything, as it came and with its sums put right:
// no section is longer than it may be, a refused one changes nothing, and what is accepted to the
// end is written as the same bytes.
#include "formats/archive.h"

#include <algorithm>
#include <cstdint>

#include "formats/little_endian.h"
#include "formats/memory_index.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {
namespace {

using Bytes = std::vector<std::byte>;

void append(Bytes& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// As a receiver reads it. An index that cannot be opened still says some number of units, so that
// the order is tried without the fuzzer having to make one.
Result<Bytes> receive(std::span<const std::byte> file) {
  VOLT_TRY(decode_archive_head(file));
  Bytes written = encode_archive_head();
  SectionOrder order;
  std::size_t at = kArchiveHeadBytes;
  while (!order.at_end()) {
    const SectionHead head = VOLT_TRY(decode_section_head(file.subspan(at)));
    at += kSectionHeadBytes;
    expect(head.bytes <= kMaxSectionBytes, "a section has a limit");
    VOLT_TRY(order.next(head.kind));
    const auto bytes = file.subspan(at, std::min<std::size_t>(head.bytes, file.size() - at));
    VOLT_TRY(check_section(head, bytes));
    at += bytes.size();
    if (head.kind == Section::kIndex) {
      const Result<MemoryIndex> index = MemoryIndex::open(bytes);
      order.expect_units(index ? index->entry_count() : bytes.size() % 4);
    }
    expect(head.kind == Section::kUnit || !order.next(head.kind), "only units come again");
    append(written, encode_section_head(head.kind, bytes));
    append(written, bytes);
  }
  return written;
}

void fuzz_file(std::span<const std::byte> file) {
  const Result<Bytes> written = receive(file);
  if (!written) return expect_refusal(written.error(), "archive: ");
  expect_canonical(file.first(written->size()), *written);
}

// Puts right magic and major, and the sums of all sections as long as one follows the other.
void repair(std::span<std::byte> file) {
  std::ranges::copy(encode_archive_head(), file.begin());
  for (std::span<std::byte> rest = file.subspan(kArchiveHeadBytes);
       rest.size() >= kSectionHeadBytes;) {
    const std::span<std::byte> summed = rest.first(16);
    const std::size_t room = rest.size() - kSectionHeadBytes;
    const std::size_t bytes = std::min<std::size_t>(load<std::uint64_t>(rest.data() + 8), room);
    store<std::uint64_t>(rest.data() + 8, bytes);
    const Xxh128 sum = xxh128(summed, rest.subspan(kSectionHeadBytes, bytes));
    std::ranges::copy(sum, rest.subspan(16).begin());
    rest = rest.subspan(kSectionHeadBytes + bytes);
  }
}

}  // namespace
}  // namespace volt::formats

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::formats;
  return fuzz_twice(data, size, kArchiveHeadBytes, fuzz_file, repair);
}
