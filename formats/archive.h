// Archive (.vsnap): one snapshot as a stream, for a file or a pipe. Read front to back once, never
// sought in. All integers little-endian.
//   head, 80 bytes:
//     0    8 magic          "VOLTARC" and a zero byte
//     8    2 major          a reader refuses any value but its own
//    10    2 minor          a reader accepts any value
//    12    4 must_be_zero   a set bit means: this file needs a newer reader
//    16   48 reserved       zero
//    64   16 head_sum       XXH3-128 over bytes 0..63
// then sections, each a section head and its bytes. section head, 32 bytes:
//     0    4 kind           1 manifest, 2 state, 3 index, 4 hot set, 5 unit, 6 end
//     4    4 reserved       zero
//     8    8 bytes          length of what follows: at most what the kind's own format can take
//                           (16 MiB and a head for manifest and state, 8 MiB and a head for the hot
//                           set, 2 MiB for a unit, 32 for end), and kMaxSectionBytes for the index
//    16   16 sum            XXH3-128 over bytes 0..15 of this head and what follows
// Sections come in this order: manifest, state, index, hot set (or none), then one unit for each
// entry of the index and in its order, then end. A unit is raw (as long as the index's unit) or one
// zstd frame (shorter). `end` holds the SHA-256 of everything before its section head, and nothing
// follows it: the sums find accidents, this one names the archive for whoever was told it by
// another way.
// Readers check in this order and stop at the first failure: of the head size, magic, major,
// head_sum, must_be_zero, reserved; of each section its head's size, kind, reserved, bytes; its
// place in the order; its sum; then what it holds, by its own format. A length is believed before
// its sum can be checked, so it is bounded by kind: a stream has no size to compare it with.
// Why the index comes before the units: a receiver knows from it what each unit must be, and can
// check and place it without keeping it. Downside: none can be sent before all have been summed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/digest.h"
#include "formats/fixed_head.h"
#include "vmm/os/error.h"

namespace volt::formats {

inline constexpr std::size_t kArchiveHeadBytes = kFixedHeadBytes;
inline constexpr std::size_t kSectionHeadBytes = 32;
inline constexpr std::uint64_t kMaxSectionBytes = std::uint64_t{1} << 30;

enum class Section : std::uint32_t {
  kManifest = 1,
  kState = 2,
  kIndex = 3,
  kHotSet = 4,
  kUnit = 5,
  kEnd = 6,
};

struct SectionHead {
  Section kind;
  std::uint64_t bytes;
  Xxh128 sum;
};

std::vector<std::byte> encode_archive_head();
Result<> decode_archive_head(std::span<const std::byte> head);

std::vector<std::byte> encode_section_head(Section kind, std::span<const std::byte> bytes);
// Checks kind and length; the sum covers bytes that are not here yet.
Result<SectionHead> decode_section_head(std::span<const std::byte> head);
Result<> check_section(const SectionHead& head, std::span<const std::byte> bytes);

// Which section may come next, as the order above has it.
class SectionOrder {
 public:
  // kCorrupt names what was expected, and nothing has changed.
  Result<> next(Section kind);
  // Must be called before the first unit or the end: once the index has been read.
  void expect_units(std::uint64_t units);
  bool at_end() const { return last_ == Section::kEnd; }

 private:
  std::optional<Section> after(Section wanted) const;

  std::optional<Section> last_;
  std::optional<std::uint64_t> units_left_;
};

}  // namespace volt::formats
