#include "snapshot/opened.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "formats/head.h"
#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// An index is held in memory whole while its entries are in use: enough for 2 TiB of data in units
// of 64 KiB, and for 128 GiB in the smallest.
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{1} << 30;
// One of up to this size is checked whole by everyone who opens it, for 6 us per 1,024 units:
// damage is found even where no entry is used. Beyond, opening must not grow with the guest.
constexpr std::uint64_t kCheckedWhole = 256 << 10;
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

// [from, to) of the memory file holds nothing but zeros. Holes are skipped, not read.
Result<std::uint64_t> check_zero(const Fd& memory, std::uint64_t from, std::uint64_t to,
                                 std::span<std::byte> buffer) {
  std::uint64_t read = 0;
  while (from < to) {
    const off_t data = ::lseek(memory.get(), static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return sys_error("lseek", kMemoryFile);
    from = static_cast<std::uint64_t>(data);
    if (from >= to) break;
    const auto part = buffer.first(std::min<std::uint64_t>(buffer.size(), to - from));
    VOLT_TRY(read_exact(memory, part, from, kMemoryFile));
    const auto other =
        std::find_if(part.begin(), part.end(), [](std::byte b) { return b != std::byte{0}; });
    if (other != part.end()) {
      return fail(Code::kCorrupt,
                  "memory: byte " +
                      std::to_string(from + static_cast<std::uint64_t>(other - part.begin())) +
                      ": not zero, though the index has no unit there");
    }
    from += part.size();
    read += part.size();
  }
  return read;
}

// An index takes an entry for each unit that is stored, and a sum for 128 of them.
std::uint64_t max_index_bytes(const formats::v1::Memory& memory) {
  const std::uint64_t units = memory.stored_bytes() / memory.unit_bytes();
  const std::uint64_t bytes =
      formats::kIndexHeadBytes + units * (sizeof(formats::IndexEntry) + sizeof(formats::Xxh128));
  return std::min(bytes, kMaxIndexBytes);
}

bool equal(const formats::Sha256& digest, const std::string& stored) {
  return stored.size() == digest.size() &&
         std::memcmp(digest.data(), stored.data(), digest.size()) == 0;
}

}  // namespace

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
  manifest_ = VOLT_TRY(formats::decode_manifest(manifest));
  digest_ = formats::sha256(manifest);
  if (reference.digest && *reference.digest != digest_) {
    const Code code = reference.name.empty() ? Code::kCorrupt : Code::kNotFound;
    return fail(code,
                "its digest is sha256:" + formats::to_hex(digest_) + ", not the one asked for");
  }
  const std::vector<std::byte> state =
      VOLT_TRY(read_named(dir_, kStateFile, manifest_.state(), kMaxHeadedFile));
  state_ = VOLT_TRY(formats::decode_machine_state(state));
  if (!equal(formats::sha256(state), manifest_.state().sha256())) {
    return fail(Code::kCorrupt, "state: it is not the one the manifest names");
  }
  VOLT_TRY(open_index(index));
  memory_ = VOLT_TRY(open_at(dir_.get(), kMemoryFile, O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(memory_, kMemoryFile));
  if (size != memory_bytes()) {
    return fail(Code::kCorrupt, "memory: size: " + std::to_string(size) +
                                    " bytes, the manifest says " + std::to_string(memory_bytes()));
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
  index_bytes_.resize(small || index == Index::kWhole ? size : kHeadOnly);
  VOLT_TRY(read_exact(file, index_bytes_, 0, kIndexFile));
  const formats::IndexHead head = VOLT_TRY(formats::decode_index_head(index_bytes_, size));
  if (!equal(head.digest, manifest_.memory().digest()) ||
      head.unit_bytes != manifest_.memory().unit_bytes()) {
    return fail(Code::kCorrupt, "index: digest: it is not the one the manifest names");
  }
  if (!small && index == Index::kHead) {
    index_file_ = std::move(file);
    return {};
  }
  index_ =
      std::make_unique<formats::MemoryIndex>(VOLT_TRY(formats::MemoryIndex::open(index_bytes_)));
  return small ? check_blocks() : Result<>{};
}

Result<WholeIndex> OpenedSnapshot::whole_index() const {
  if (index_ != nullptr) return WholeIndex{{}, {}, index_.get()};
  WholeIndex whole = {std::vector<std::byte>(manifest_.index().size_bytes()), {}, nullptr};
  VOLT_TRY(read_exact(index_file_, whole.bytes, 0, kIndexFile));
  if (!std::ranges::equal(index_bytes_, std::span(whole.bytes).first(kHeadOnly))) {
    return fail(Code::kCorrupt, "index: it changed since it was opened");
  }
  whole.own =
      std::make_unique<formats::MemoryIndex>(VOLT_TRY(formats::MemoryIndex::open(whole.bytes)));
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

std::uint64_t OpenedSnapshot::memory_bytes() const {
  const auto& last = *manifest_.memory().regions().rbegin();
  return last.file_offset() + last.size_bytes();
}

std::uint64_t OpenedSnapshot::guest_address(std::uint64_t file_offset) const {
  const auto& regions = manifest_.memory().regions();
  const auto region = std::find_if(regions.begin(), regions.end(), [&](const auto& each) {
    return file_offset - each.file_offset() < each.size_bytes();
  });
  return region->guest_base() + (file_offset - region->file_offset());
}

Result<> OpenedSnapshot::read_unit(const formats::IndexEntry& entry,
                                   std::span<std::byte> into) const {
  VOLT_TRY(read_exact(memory_, into, entry.place, kMemoryFile));
  if (formats::xxh128(into) != entry.sum) {
    return fail(Code::kCorrupt, "memory: unit " + std::to_string(entry.unit) + " at file offset " +
                                    std::to_string(entry.place) +
                                    ": bytes changed since it was written");
  }
  return {};
}

Result<> OpenedSnapshot::check_agreement(const formats::MemoryIndex& index) const {
  const formats::v1::Memory& memory = manifest_.memory();
  if (index.entry_count() * index.unit_bytes() != memory.stored_bytes()) {
    return fail(Code::kCorrupt, "manifest: memory.stored_bytes: the index holds " +
                                    std::to_string(index.entry_count()) + " units");
  }
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const std::string where = "index: entry " + std::to_string(i) + ": ";
    if (entry.place > memory_bytes() - index.unit_bytes() ||
        entry.place % index.unit_bytes() != 0 ||
        guest_address(entry.place) != entry.unit * index.unit_bytes()) {
      return fail(Code::kCorrupt, where + "place: not where that unit belongs");
    }
    const bool in_extent = std::any_of(memory.data().begin(), memory.data().end(), [&](auto& data) {
      return entry.place - data.file_offset() < data.size_bytes();
    });
    if (!in_extent) return fail(Code::kCorrupt, where + "place: in no extent of the manifest");
  }
  return {};
}

Result<> OpenedSnapshot::check_zeros(const formats::MemoryIndex& index) const {
  std::vector<std::byte> buffer(index.unit_bytes());
  std::uint64_t end = 0;  // of what has been looked at
  for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
    VOLT_TRY(vmm::check_stop());
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    static_cast<void>(VOLT_TRY(check_zero(memory_, end, entry.place, buffer)));
    end = entry.place + buffer.size();
  }
  static_cast<void>(VOLT_TRY(check_zero(memory_, end, memory_bytes(), buffer)));
  return {};
}

Result<Verified> OpenedSnapshot::check_memory() const {
  VOLT_TRY(check_agreement());
  std::vector<std::byte> buffer(index_->unit_bytes());
  Verified verified;
  std::uint64_t end = 0;  // of what has been looked at
  for (std::uint64_t i = 0; i < index_->entry_count(); ++i) {
    VOLT_TRY(vmm::check_stop());
    const formats::IndexEntry entry = VOLT_TRY(index_->at(i));
    verified.bytes_read += VOLT_TRY(check_zero(memory_, end, entry.place, buffer));
    VOLT_TRY(read_unit(entry, buffer));
    end = entry.place + buffer.size();
    ++verified.units;
  }
  verified.bytes_read += verified.units * index_->unit_bytes();
  verified.bytes_read += VOLT_TRY(check_zero(memory_, end, memory_bytes(), buffer));
  return verified;
}

}  // namespace volt::snapshot
