#include "snapshot/opened.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "formats/head.h"
#include "snapshot/packs.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// Enough for 2 TiB of data in units of 64 KiB.
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{1} << 30;
// One of up to this size is checked whole by everyone who opens it, for 6 us per 1,024 units:
// damage is found even where no entry is used. Beyond, opening must not grow with the guest.
constexpr std::uint64_t kCheckedWhole = 256 << 10;
// Each time memory is stored anew while we look, two more files may have come and gone.
constexpr int kLooks = 100;
constexpr std::size_t kHeadOnly = formats::kIndexHeadBytes;
constexpr std::size_t kMaxHeadedFile = formats::kHeadBytes + formats::kMaxBodyBytes;

Result<std::vector<std::byte>> read_file(const Fd& dir, const char* name, std::size_t limit) {
  const Fd file = VOLT_TRY(open_at(dir.get(), name, O_RDONLY));
  return read_whole(file, limit, name);
}

std::unexpected<Error> wrong_size(const char* name, std::uint64_t size,
                                  const formats::v1::FileRef& ref) {
  return fail(Code::kCorrupt, std::string(name) + ": size: " + std::to_string(size) +
                                  " bytes, the manifest says " + std::to_string(ref.size_bytes()));
}

// Before anything of that size is read or allocated.
Result<> check_claim(const char* name, const formats::v1::FileRef& ref, std::uint64_t limit) {
  if (ref.size_bytes() <= limit) return {};
  return fail(Code::kCorrupt, std::string("manifest: ") + name +
                                  ".size_bytes: " + std::to_string(ref.size_bytes()) +
                                  ", at most " + std::to_string(limit));
}

// A file that its manifest names: exactly as long as it says, which is no more than `limit`.
Result<std::vector<std::byte>> read_named(const Fd& dir, const char* name,
                                          const formats::v1::FileRef& ref, std::uint64_t limit) {
  VOLT_TRY(check_claim(name, ref, limit));
  const Fd file = VOLT_TRY(open_at(dir.get(), name, O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(file, name));
  if (size != ref.size_bytes()) return wrong_size(name, size, ref);
  return read_whole(file, size, name);
}

// An index takes an entry for each unit that is stored, and a sum for 128 of them.
std::uint64_t max_index_bytes(const formats::v1::Memory& memory) {
  const std::uint64_t units = memory.stored_bytes() / memory.unit_bytes();
  const std::uint64_t bytes =
      formats::kIndexHeadBytes + units * (sizeof(formats::IndexEntry) + sizeof(formats::Xxh128));
  return std::min(bytes, kMaxIndexBytes);
}

std::uint64_t max_units_bytes(const formats::v1::Memory& memory) {
  const std::uint64_t units = memory.stored_bytes() / memory.unit_bytes();
  const std::uint64_t containers = formats::kMaxContainers * 64;
  return formats::kUnitTableHeadBytes + containers +
         units * (sizeof(formats::StoredUnit) + sizeof(formats::Xxh128)) + sizeof(formats::Xxh128);
}

bool equal(const formats::Sha256& digest, const std::string& stored) {
  return stored.size() == digest.size() &&
         std::memcmp(digest.data(), stored.data(), digest.size()) == 0;
}

}  // namespace

std::string container_file_name(const formats::Container& container) {
  if (container.kind == formats::Container::Kind::kLayer) {
    return kLayerPrefix + formats::to_hex(container.id);
  }
  formats::PackId id;
  std::copy_n(container.id.begin(), id.size(), id.begin());
  return pack_file_name(id);
}

Result<OpenedSnapshot> OpenedSnapshot::open(const Store& store, const Reference& reference,
                                            Index index) {
  OpenedSnapshot snapshot;
  snapshot.dir_ = VOLT_TRY(store.find(reference));
  // A file that is missing now was removed with its snapshot meanwhile, or lost: the error names
  // it.
  VOLT_TRY_IN("snapshot " + reference.text(), snapshot.open_files(reference, index));
  return snapshot;
}

Result<> OpenedSnapshot::open_files(const Reference& reference, Index index) {
  const std::vector<std::byte> manifest = VOLT_TRY(read_file(dir_, kManifestFile, kMaxHeadedFile));
  VOLT_TRY(take_manifest(manifest));
  if (reference.digest && *reference.digest != digest_) {
    const Code code = reference.name.empty() ? Code::kCorrupt : Code::kNotFound;
    return fail(code,
                "its digest is sha256:" + formats::to_hex(digest_) + ", not the one asked for");
  }
  const std::vector<std::byte> state =
      VOLT_TRY(read_named(dir_, kStateFile, manifest_.state(), kMaxHeadedFile));
  VOLT_TRY(take_state(state));
  VOLT_TRY(open_memory());
  return open_index(is_raw() ? index : Index::kWhole);
}

Result<> OpenedSnapshot::take_manifest(std::span<const std::byte> manifest) {
  manifest_ = VOLT_TRY(formats::decode_manifest(manifest));
  digest_ = formats::sha256(manifest);
  return {};
}

Result<> OpenedSnapshot::take_state(std::span<const std::byte> state) {
  state_ = VOLT_TRY(formats::decode_machine_state(state));
  if (equal(formats::sha256(state), manifest_.state().sha256())) return {};
  return fail(Code::kCorrupt, "state: it is not the one the manifest names");
}

Result<OpenedSnapshot> OpenedSnapshot::described(std::span<const std::byte> manifest,
                                                 std::span<const std::byte> state) {
  OpenedSnapshot snapshot;
  VOLT_TRY(snapshot.take_manifest(manifest));
  VOLT_TRY(snapshot.take_state(state));
  return snapshot;
}

Result<std::array<std::vector<std::byte>, 2>> OpenedSnapshot::documents() const {
  std::vector<std::byte> manifest = VOLT_TRY(read_file(dir_, kManifestFile, kMaxHeadedFile));
  if (formats::sha256(manifest) != digest_) {
    return fail(Code::kCorrupt, "manifest: it changed since it was opened");
  }
  std::vector<std::byte> state =
      VOLT_TRY(read_named(dir_, kStateFile, manifest_.state(), kMaxHeadedFile));
  return std::array{std::move(manifest), std::move(state)};
}

// Whoever changes how memory is stored makes the new files before it removes the old ones: one that
// is gone between two looks means that the other is there.
Result<> OpenedSnapshot::open_memory() {
  for (int looks = 0;; ++looks) {
    Result<Fd> memory = open_at(dir_.get(), kMemoryFile, O_RDONLY);
    if (memory) {
      memory_ = *std::move(memory);
      units_.reset();
      containers_.clear();
      const std::uint64_t size = VOLT_TRY(file_size(memory_, kMemoryFile));
      if (size == memory_bytes()) return {};
      return fail(Code::kCorrupt, "memory: size: " + std::to_string(size) +
                                      " bytes, the manifest says " +
                                      std::to_string(memory_bytes()));
    }
    if (memory.error().code != Code::kNotFound) return std::unexpected(memory.error());
    const Result<Fd> units = open_at(dir_.get(), kUnitsFile, O_RDONLY);
    Result<> opened = units ? open_units(*units) : Result<>(std::unexpected(units.error()));
    if (opened || opened.error().code != Code::kNotFound || looks == kLooks) {
      return opened || units ? opened : Result<>(std::unexpected(memory.error()));
    }
  }
}

Result<> OpenedSnapshot::open_units(const Fd& file) {
  const std::uint64_t size = VOLT_TRY(file_size(file, kUnitsFile));
  if (size > max_units_bytes(manifest_.memory())) {
    return fail(Code::kCorrupt,
                "units: size: " + std::to_string(size) + " bytes, more than its memory can need");
  }
  unit_bytes_ = VOLT_TRY(FileView::of(file, size, kUnitsFile));
  units_ =
      std::make_unique<formats::UnitTable>(VOLT_TRY(formats::UnitTable::open(unit_bytes_.bytes())));
  const formats::v1::Memory& memory = manifest_.memory();
  if (!equal(units_->digest(), memory.digest()) || units_->unit_bytes() != memory.unit_bytes() ||
      units_->entry_count() != memory.stored_bytes() / memory.unit_bytes()) {
    return fail(Code::kCorrupt, "units: digest: it is for another memory than the manifest's");
  }
  containers_.clear();
  for (const formats::Container& each : units_->containers()) {
    std::string name = container_file_name(each);
    Fd container = VOLT_TRY(open_at(dir_.get(), name.c_str(), O_RDONLY));
    containers_.push_back({std::move(container), std::move(name)});
  }
  return {};
}

Result<> OpenedSnapshot::open_index(Index index) {
  const formats::v1::FileRef& ref = manifest_.index();
  VOLT_TRY(check_claim(kIndexFile, ref, max_index_bytes(manifest_.memory())));
  Fd file = VOLT_TRY(open_at(dir_.get(), kIndexFile, O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(file, kIndexFile));
  if (size != ref.size_bytes()) return wrong_size(kIndexFile, size, ref);
  const bool small = size <= kCheckedWhole;
  const std::uint64_t needed = small || index == Index::kWhole ? size : kHeadOnly;
  index_bytes_ = VOLT_TRY(FileView::of(file, needed, kIndexFile));
  const formats::IndexHead head = VOLT_TRY(formats::decode_index_head(index_bytes_.bytes(), size));
  if (!equal(head.digest, manifest_.memory().digest()) ||
      head.unit_bytes != manifest_.memory().unit_bytes()) {
    return fail(Code::kCorrupt, "index: digest: it is not the one the manifest names");
  }
  if (!small && index == Index::kHead) {
    index_file_ = std::move(file);
    return {};
  }
  index_ = std::make_unique<formats::MemoryIndex>(
      VOLT_TRY(formats::MemoryIndex::open(index_bytes_.bytes())));
  return small ? check_blocks() : Result<>{};
}

Result<WholeIndex> OpenedSnapshot::whole_index() const {
  if (index_ != nullptr) return WholeIndex{{}, {}, index_.get()};
  WholeIndex whole = {
      VOLT_TRY(FileView::of(index_file_, manifest_.index().size_bytes(), kIndexFile)), {}, nullptr};
  if (!std::ranges::equal(index_bytes_.bytes(), whole.bytes.bytes().first(kHeadOnly))) {
    return fail(Code::kCorrupt, "index: it changed since it was opened");
  }
  whole.own = std::make_unique<formats::MemoryIndex>(
      VOLT_TRY(formats::MemoryIndex::open(whole.bytes.bytes())));
  whole.index = whole.own.get();
  return whole;
}

// Looking at the first entry of a block checks the block.
Result<> OpenedSnapshot::check_blocks() const {
  for (std::uint64_t i = 0; i < index_->entry_count(); i += formats::kEntriesPerBlock) {
    VOLT_TRY(index_->at(i));
  }
  return {};
}

}  // namespace volt::snapshot
