#include "snapshot/opened.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "formats/head.h"
#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr std::size_t kMaxHeadedFile = formats::kHeadBytes + formats::kMaxBodyBytes;

Result<std::vector<std::byte>> read_file(const Fd& dir, const char* name, std::size_t limit) {
  const Fd file = VOLT_TRY(open_at(dir.get(), name, O_RDONLY));
  return read_whole(file, limit, name);
}

// A file that its manifest names: exactly as long as it says.
Result<std::vector<std::byte>> read_named(const Fd& dir, const char* name,
                                          const formats::v1::FileRef& ref) {
  std::vector<std::byte> bytes = VOLT_TRY(read_file(dir, name, ref.size_bytes()));
  if (bytes.size() != ref.size_bytes()) {
    return fail(Code::kCorrupt, std::string(name) + ": size: " + std::to_string(bytes.size()) +
                                    " bytes, the manifest says " +
                                    std::to_string(ref.size_bytes()));
  }
  return bytes;
}

bool equal(const formats::Sha256& digest, const std::string& stored) {
  return stored.size() == digest.size() &&
         std::memcmp(digest.data(), stored.data(), digest.size()) == 0;
}

}  // namespace

Result<OpenedSnapshot> OpenedSnapshot::open(const Store& store, const Reference& reference) {
  OpenedSnapshot snapshot;
  snapshot.dir_ = VOLT_TRY(store.find(reference));
  // A file that is missing now was removed with its snapshot meanwhile, or lost: the error names
  // it.
  VOLT_TRY_IN("snapshot " + reference.text(), snapshot.open_files(reference));
  return snapshot;
}

Result<> OpenedSnapshot::open_files(const Reference& reference) {
  const std::vector<std::byte> manifest = VOLT_TRY(read_file(dir_, kManifestFile, kMaxHeadedFile));
  manifest_ = VOLT_TRY(formats::decode_manifest(manifest));
  digest_ = formats::sha256(manifest);
  if (reference.digest && *reference.digest != digest_) {
    return fail(Code::kCorrupt, "manifest: its digest is sha256:" + formats::to_hex(digest_) +
                                    ", not the one asked for");
  }
  const std::vector<std::byte> state = VOLT_TRY(read_named(dir_, kStateFile, manifest_.state()));
  state_ = VOLT_TRY(formats::decode_machine_state(state));
  if (!equal(formats::sha256(state), manifest_.state().sha256())) {
    return fail(Code::kCorrupt, "state: it is not the one the manifest names");
  }
  index_bytes_ = VOLT_TRY(read_named(dir_, kIndexFile, manifest_.index()));
  index_ =
      std::make_unique<formats::MemoryIndex>(VOLT_TRY(formats::MemoryIndex::open(index_bytes_)));
  if (!equal(index_->digest(), manifest_.memory().digest()) ||
      index_->unit_bytes() != manifest_.memory().unit_bytes()) {
    return fail(Code::kCorrupt, "index: digest: it is not the one the manifest names");
  }
  memory_ = VOLT_TRY(open_at(dir_.get(), kMemoryFile, O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(memory_, kMemoryFile));
  if (size != memory_bytes()) {
    return fail(Code::kCorrupt, "memory: size: " + std::to_string(size) +
                                    " bytes, the manifest says " + std::to_string(memory_bytes()));
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

Result<> OpenedSnapshot::check_memory() const {
  std::vector<std::byte> unit(index_->unit_bytes());
  for (std::uint64_t i = 0; i < index_->entry_count(); ++i) {
    VOLT_TRY(vmm::check_stop());
    const formats::IndexEntry entry = VOLT_TRY(index_->at(i));
    VOLT_TRY(read_unit(entry, unit));
  }
  return {};
}

}  // namespace volt::snapshot
