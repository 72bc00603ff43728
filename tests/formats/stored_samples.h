// One small guest memory and every way it can be stored: units of 4 KiB, some packed, some in a
// `memory` file, some sent in an archive. Index, unit table and pack agree with each other. The
// golden files hold these very samples.
#pragma once

#include <algorithm>

#include "formats/archive.h"
#include "formats/hot_set.h"
#include "formats/little_endian.h"
#include "formats/pack.h"
#include "formats/unit_table.h"
#include "tests/formats/samples.h"

namespace volt::formats {

inline constexpr std::size_t kStoredUnitBytes = 4096;
inline constexpr std::size_t kPackedUnits = 3;

// Entry i's unit as the guest sees it: one byte all over, but every third counts.
inline Bytes unit_content(std::size_t i) {
  Bytes unit(kStoredUnitBytes, static_cast<std::byte>('a' + i % 26));
  if (i % 3 == 0) {
    for (std::size_t at = 0; at < unit.size(); ++at) unit[at] = static_cast<std::byte>(at + i);
  }
  return unit;
}

// The zstd frame of 4,096 times one byte: frame head, content size, one block that says "repeat".
inline Bytes frame_of(std::byte filler) {
  Bytes frame = bytes_of(std::string("\x28\xB5\x2F\xFD\x60\x00\x0F\x03\x80\x00", 10));
  frame.push_back(filler);
  return frame;
}

// As it is stored where units are compressed: a frame if that is shorter.
inline Bytes stored_form(std::size_t i) {
  const Bytes unit = unit_content(i);
  return i % 3 == 0 ? unit : frame_of(unit[0]);
}

inline std::vector<IndexEntry> stored_entries(std::size_t n) {
  std::vector<IndexEntry> entries(n);
  for (std::size_t i = 0; i < n; ++i) {
    entries[i] = {.unit = 3 * i + 2, .sum = xxh128(unit_content(i)), .place = i * kStoredUnitBytes};
  }
  return entries;
}

inline PackId sample_pack_id() {
  PackId id;
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::byte>(0xA0 + i);
  return id;
}

// Records of n units stored one after another, in the table's order.
inline std::vector<PackRecord> sample_records(std::size_t n) {
  std::vector<PackRecord> records(n);
  std::uint64_t offset = kPackHeadBytes;
  for (std::size_t i = 0; i < n; ++i) {
    const bool raw = i % 3 == 0;
    records[i] = {.sum = xxh128(unit_content(i)),
                  .offset = offset,
                  .stored_bytes = raw ? std::uint32_t{kStoredUnitBytes} : 11,
                  .raw_bytes = kStoredUnitBytes};
    offset += records[i].stored_bytes;
  }
  std::ranges::sort(records, [](const PackRecord& a, const PackRecord& b) {
    return a.sum != b.sum ? a.sum < b.sum : a.offset < b.offset;
  });
  return records;
}

inline Bytes sample_pack(std::size_t n) {
  Bytes file = encode_pack_head(sample_pack_id());
  for (std::size_t i = 0; i < n; ++i) {
    const Bytes stored = stored_form(i);
    file.insert(file.end(), stored.begin(), stored.end());
  }
  const Bytes table = encode_pack_table(sample_pack_id(), sample_records(n), file.size());
  file.insert(file.end(), table.begin(), table.end());
  return file;
}

// Raw memory that this snapshot wrote, raw memory of another one, and the pack.
inline std::vector<Container> sample_containers() {
  std::vector<Container> containers(3);
  containers[0] = {.kind = Container::Kind::kLayer, .id = sha256(bytes_of("this snapshot"))};
  containers[1] = {.kind = Container::Kind::kLayer, .id = sha256(bytes_of("another snapshot"))};
  containers[2] = {.kind = Container::Kind::kPack, .id = {}};
  std::ranges::copy(sample_pack_id(), containers[2].id.begin());
  return containers;
}

// The first three units are in the pack, the others raw in one of two memory files.
inline std::vector<StoredUnit> sample_units(std::size_t n) {
  std::vector<StoredUnit> units(n);
  std::uint64_t offset = kPackHeadBytes;
  for (std::size_t i = 0; i < n; ++i) {
    const bool packed = i < kPackedUnits;
    const Bytes stored = packed ? stored_form(i) : unit_content(i);
    units[i] = {.sum = xxh128(stored),
                .offset = packed ? offset : i * kStoredUnitBytes,
                .container = packed ? 2 : static_cast<std::uint32_t>(i % 2),
                .stored_bytes = static_cast<std::uint32_t>(stored.size())};
    offset += stored.size();
  }
  return units;
}

inline Sha256 stored_digest(std::size_t n) {
  return memory_digest(stored_entries(n), kStoredUnitBytes);
}

inline Bytes sample_unit_table(std::size_t n) {
  return encode_unit_table(sample_units(n), sample_containers(), stored_digest(n),
                           kStoredUnitBytes);
}

// Later pages come first, and every second one is written.
inline HotSet sample_hot_set(std::size_t n) {
  HotSet set = {.digest = stored_digest(3), .pages = std::vector<HotPage>(n)};
  for (std::size_t i = 0; i < n; ++i) {
    set.pages[i] = {.page = 2 + 3 * (n - 1 - i), .written = i % 2 == 1};
  }
  return set;
}

inline void add_section(Bytes& archive, Section kind, std::span<const std::byte> bytes) {
  const Bytes head = encode_section_head(kind, bytes);
  archive.insert(archive.end(), head.begin(), head.end());
  archive.insert(archive.end(), bytes.begin(), bytes.end());
}

// The manifest of a snapshot with three units, naming the state and the index beside it.
inline Bytes archived_manifest(const Bytes& state, const Bytes& index) {
  const auto name = [](const Sha256& sum) {
    std::string text(sum.size(), '\0');
    std::memcpy(text.data(), sum.data(), sum.size());
    return text;
  };
  Manifest manifest = sample_manifest();
  v1::Memory& memory = *manifest.mutable_memory();
  memory.Clear();
  add_region(memory, 0, 32 * kMiB, 0);
  add_extent(memory, 0, 64 << 10);
  memory.set_unit_bytes(kStoredUnitBytes);
  memory.set_stored_bytes(3 * kStoredUnitBytes);
  memory.set_digest(name(stored_digest(3)));
  manifest.mutable_state()->set_size_bytes(state.size());
  manifest.mutable_state()->set_sha256(name(sha256(state)));
  manifest.mutable_index()->set_size_bytes(index.size());
  manifest.mutable_index()->set_sha256(name(sha256(index)));
  return encode(manifest);
}

inline Bytes sample_archive() {
  const Bytes state = encode(sample_state());
  const Bytes index = encode_memory_index(stored_entries(3), kStoredUnitBytes);
  Bytes archive = encode_archive_head();
  add_section(archive, Section::kManifest, archived_manifest(state, index));
  add_section(archive, Section::kState, state);
  add_section(archive, Section::kIndex, index);
  add_section(archive, Section::kHotSet, encode_hot_set(sample_hot_set(4)));
  for (std::size_t i = 0; i < 3; ++i) add_section(archive, Section::kUnit, stored_form(i));
  add_section(archive, Section::kEnd, sha256(archive));
  return archive;
}

// ---- Changing on purpose.

// A head of fixed length with another field, and a sum that says so.
template <typename T>
Bytes with_head(Bytes file, std::size_t offset, T value) {
  store(file.data() + offset, value);
  put_head_sum(file);
  return file;
}

}  // namespace volt::formats
