#include "snapshot/storage.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "snapshot/hot_layout.h"
#include "snapshot/hot_set.h"
#include "snapshot/unit_reader.h"
#include "vmm/file_lock.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr char kNewUnits[] = "units.new";
constexpr char kNewMemory[] = "memory.new";

// A file of a directory that appears under `name` when it is whole.
class NewFile {
 public:
  static Result<NewFile> create(const Fd& dir, const char* temporary) {
    // Left by a killed process: whoever holds the directory's lock is alone here.
    ::unlinkat(dir.get(), temporary, 0);
    return NewFile(dir.get(), temporary,
                   VOLT_TRY(open_at(dir.get(), temporary, O_RDWR | O_CREAT | O_EXCL, 0444)));
  }
  NewFile(NewFile&& other) noexcept
      : dir_(other.dir_),
        temporary_(std::exchange(other.temporary_, nullptr)),
        file_(std::move(other.file_)) {}
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile() {
    if (temporary_ != nullptr) ::unlinkat(dir_, temporary_, 0);
  }

  const Fd& file() const { return file_; }
  Result<> publish(const char* name) {
    VOLT_TRY(sync(file_, name));
    if (::renameat(dir_, temporary_, dir_, name) != 0) return sys_error("rename", name);
    temporary_ = nullptr;
    return {};
  }

 private:
  NewFile(int dir, const char* temporary, Fd file)
      : dir_(dir), temporary_(temporary), file_(std::move(file)) {}

  int dir_;
  const char* temporary_;
  Fd file_;
};

// Every entry that is not kept elsewhere once: those of `hot` first.
std::vector<std::uint64_t> order_of(std::size_t entries, std::span<const std::uint64_t> hot,
                                    const KeptUnits& kept) {
  std::vector<std::uint64_t> order;
  order.reserve(entries);
  std::vector<bool> placed(entries);
  for (std::uint64_t i = 0; i < kept.units.size(); ++i) placed[i] = kept.has(i);
  const auto place = [&](std::uint64_t i) {
    if (!placed[i]) order.push_back(i);
    placed[i] = true;
  };
  for (const std::uint64_t i : hot) place(i);
  for (std::uint64_t i = 0; i < entries; ++i) place(i);
  return order;
}

Result<> link_packs(const Packs& packs, std::span<const formats::Container> containers,
                    const Fd& dir) {
  for (const formats::Container& container : containers) {
    const std::string name = container_file_name(container);
    if (::linkat(packs.dir().get(), name.c_str(), dir.get(), name.c_str(), 0) != 0 &&
        errno != EEXIST) {
      return sys_error("link", name);
    }
  }
  return {};
}

Result<std::vector<formats::IndexEntry>> all_entries(const OpenedSnapshot& snapshot) {
  std::vector<formats::IndexEntry> entries;
  for (std::uint64_t i = 0; i < snapshot.index().entry_count(); ++i) {
    entries.push_back(VOLT_TRY(snapshot.index().at(i)));
  }
  return entries;
}

Result<bool> same_file(const Fd& one, const Fd& other) {
  struct stat first, second;
  if (::fstat(one.get(), &first) != 0) return sys_error("fstat");
  if (::fstat(other.get(), &second) != 0) return sys_error("fstat");
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// The containers that the unit table in `dir` names, none of which need be opened to tell.
Result<std::vector<std::string>> named_in(const Fd& dir) {
  const Fd file = VOLT_TRY(open_at(dir.get(), kUnitsFile, O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(file, kUnitsFile));
  const FileView view = VOLT_TRY(FileView::of(file, size, kUnitsFile));
  const formats::UnitTable table = VOLT_TRY(formats::UnitTable::open(view.bytes()));
  std::vector<std::string> names;
  for (const auto& container : table.containers()) names.push_back(container_file_name(container));
  return names;
}

}  // namespace

const char* storage_name(Storage storage) {
  return storage == Storage::kRaw ? "raw" : "packed";
}

Result<Storage> parse_storage(std::string_view name) {
  for (const Storage storage : {Storage::kRaw, Storage::kPacked}) {
    if (name == storage_name(storage)) return storage;
  }
  return fail(Code::kInvalid, "store '" + std::string(name) + "': raw or packed");
}

// What a name stands for is looked at again once it is locked: it may have been stored anew,
// removed or replaced before.
Result<LockedSnapshot> open_locked(const Store& store, const Reference& reference) {
  for (;;) {
    const Fd found = VOLT_TRY(store.find(reference));
    Fd dir = VOLT_TRY(open_at(found.get(), ".", O_RDONLY | O_DIRECTORY));
    const bool locked = VOLT_TRY(vmm::lock_soon(dir, LOCK_EX));
    if (!locked) {
      return fail(Code::kBusy, "another process is changing how this snapshot is stored");
    }
    OpenedSnapshot snapshot = VOLT_TRY(OpenedSnapshot::open(store, reference));
    const bool still = VOLT_TRY(same_file(dir, snapshot.directory()));
    if (still) {
      return LockedSnapshot{std::move(snapshot), std::move(dir)};
    }
  }
}

Result<Fd> lock_storage(const OpenedSnapshot& snapshot) {
  Fd dir = VOLT_TRY(open_at(snapshot.directory().get(), ".", O_RDONLY | O_DIRECTORY));
  const bool locked = VOLT_TRY(vmm::lock_soon(dir, LOCK_EX));
  if (locked) return dir;
  return fail(Code::kBusy, "another process is changing how this snapshot is stored");
}

Result<std::vector<std::string>> unused_files(const Fd& dir) {
  const bool raw = ::faccessat(dir.get(), kMemoryFile, F_OK, 0) == 0;
  std::vector<std::string> used;
  if (!raw) used = VOLT_TRY(named_in(dir));
  const Fd listed = VOLT_TRY(open_at(dir.get(), ".", O_RDONLY | O_DIRECTORY));
  std::vector<std::string> unused;
  const std::string path = "/proc/self/fd/" + std::to_string(listed.get());
  for (std::string& entry : VOLT_TRY(directory_entries(path))) {
    const bool container = entry.starts_with(kLayerPrefix) || pack_id_of(entry);
    const bool left = entry == kNewUnits || entry == kNewMemory || (entry == kUnitsFile && raw) ||
                      (container && std::ranges::find(used, entry) == used.end());
    if (left) unused.push_back(std::move(entry));
  }
  return unused;
}

MakeReader raw_reader(const Fd& memory, std::span<const formats::IndexEntry> entries) {
  return [&memory, entries]() -> ReadUnit {
    return [&memory, entries](std::uint64_t i, std::span<std::byte> into) -> Result<> {
      VOLT_TRY(read_exact(memory, into, entries[i].place, kMemoryFile));
      if (formats::xxh128(into) == entries[i].sum) return {};
      return fail(Code::kCorrupt, "memory: unit " + std::to_string(entries[i].unit) +
                                      ": bytes changed since it was written");
    };
  };
}

Result<StorageChange> pack_into(const Packs& packs, const Fd& dir, const UnitsToPack& units,
                                const PackOptions& options) {
  const std::vector<std::uint64_t> order = order_of(units.entries.size(), units.hot, units.kept);
  PackedUnits packed = VOLT_TRY(
      pack_units(packs, units.entries, order, units.unit_bytes, units.make_reader, options));
  const auto hot = std::ranges::count_if(units.hot, [&](std::uint64_t i) {
    return !units.kept.has(i) && packed.units[i].container == packed.written;
  });
  VOLT_TRY(link_packs(packs, packed.containers, dir));
  VOLT_TRY(units.kept.add_to(packed));
  const std::uint64_t table_bytes =
      VOLT_TRY(write_units(dir, packed, units.memory_digest, units.unit_bytes));
  return StorageChange{.units = packed.units.size(),
                       .shared_units = packed.shared_units,
                       .written_bytes = packed.stored_bytes + table_bytes,
                       .hot_units = static_cast<std::uint64_t>(hot)};
}

Result<std::uint64_t> write_units(const Fd& dir, const PackedUnits& table,
                                  const formats::Sha256& memory_digest, std::uint64_t unit_bytes) {
  NewFile file = VOLT_TRY(NewFile::create(dir, kNewUnits));
  const std::vector<std::byte> bytes =
      formats::encode_unit_table(table.units, table.containers, memory_digest, unit_bytes);
  VOLT_TRY(write_all(file.file(), bytes, 0, kUnitsFile));
  VOLT_TRY(file.publish(kUnitsFile));
  return bytes.size();
}

namespace {

// Packs what a snapshot's files hold, however they hold it, into its own directory.
Result<StorageChange> pack_opened(const Packs& packs, const OpenedSnapshot& snapshot, const Fd& dir,
                                  const PackOptions& options, KeptUnits kept) {
  VOLT_TRY(snapshot.check_agreement());
  const std::vector<formats::IndexEntry> entries = VOLT_TRY(all_entries(snapshot));
  HotOrder hot = hot_order(snapshot, entries);
  const UnitsToPack units = {.entries = entries,
                             .memory_digest = snapshot.index().digest(),
                             .unit_bytes = snapshot.index().unit_bytes(),
                             .make_reader = [&snapshot]() -> ReadUnit {
                               auto reader = std::make_shared<UnitReader>(snapshot);
                               return [reader](std::uint64_t i, std::span<std::byte> into) {
                                 return reader->read(i, into);
                               };
                             },
                             .hot = hot.entries,
                             .kept = std::move(kept)};
  StorageChange change = VOLT_TRY(pack_into(packs, dir, units, options));
  VOLT_TRY(sync(dir, "snapshot"));
  change.hot_set_unusable = std::move(hot.unusable);
  return change;
}

// After a change, and after one that failed: what does not hold the snapshot goes. Best effort:
// what stays is found by prune.
class Tidied {
 public:
  explicit Tidied(const Fd& dir) : dir_(dir) {}
  Tidied(const Tidied&) = delete;
  Tidied& operator=(const Tidied&) = delete;
  ~Tidied() {
    const auto unused = unused_files(dir_);
    if (!unused) return;
    for (const std::string& name : *unused) ::unlinkat(dir_.get(), name.c_str(), 0);
  }

 private:
  const Fd& dir_;
};

bool has_layers(const OpenedSnapshot& snapshot) {
  return std::ranges::any_of(snapshot.units().containers(), [](const auto& container) {
    return container.kind == formats::Container::Kind::kLayer;
  });
}

bool is_packed(const OpenedSnapshot& snapshot) {
  return !snapshot.is_raw() && !has_layers(snapshot);
}

Result<StorageChange> change_to_packs(const Packs& packs, const LockedSnapshot& locked,
                                      const PackOptions& options, KeptUnits kept) {
  const Tidied tidied(locked.dir);
  StorageChange change =
      VOLT_TRY(pack_opened(packs, locked.snapshot, locked.dir, options, std::move(kept)));
  if (locked.snapshot.is_raw() && ::unlinkat(locked.dir.get(), kMemoryFile, 0) != 0) {
    return sys_error("unlink", kMemoryFile);
  }
  return change;
}

Result<StorageChange> pack_locked(const Store& store, const Reference& reference,
                                  const PackOptions& options) {
  const LockedSnapshot locked = VOLT_TRY(open_locked(store, reference));
  if (is_packed(locked.snapshot)) return StorageChange{.changed = false};
  const Packs packs = VOLT_TRY(Packs::open(store.packs(), Packs::Lock::kShared));
  return change_to_packs(packs, locked, options, {});
}

// What is in packs that other snapshots have links to. The others are to be written anew, so they
// are no place to share from.
Result<KeptUnits> shared_with_others(const OpenedSnapshot& snapshot, Packs& packs) {
  constexpr nlink_t kOwnLinks = 2;  // in packs/, and in the snapshot's directory
  KeptUnits kept = VOLT_TRY(stored_units(snapshot));
  std::vector<bool> stays(kept.containers.size());
  for (std::size_t i = 0; i < stays.size(); ++i) {
    if (kept.containers[i].kind != formats::Container::Kind::kPack) continue;
    const OpenedSnapshot::Container& pack = snapshot.containers()[i];
    struct stat info;
    if (::fstat(pack.file.get(), &info) != 0) return sys_error("fstat", pack.name);
    stays[i] = info.st_nlink > kOwnLinks;
    if (!stays[i]) packs.leave_out(*pack_id_of(pack.name));
  }
  kept.keep_in(stays);
  return kept;
}

Result<StorageChange> relayout_locked(const Store& store, const Reference& reference,
                                      const PackOptions& options) {
  const LockedSnapshot locked = VOLT_TRY(open_locked(store, reference));
  const std::optional<formats::HotSet> set = VOLT_TRY(read_hot_set(locked.snapshot));
  if (!set) return fail(Code::kConflict, "no hot set was recorded that could give the order");
  Packs packs = VOLT_TRY(Packs::open(store.packs(), Packs::Lock::kShared));
  KeptUnits kept = VOLT_TRY(shared_with_others(locked.snapshot, packs));
  if (is_packed(locked.snapshot)) {
    const std::vector<formats::IndexEntry> entries = VOLT_TRY(all_entries(locked.snapshot));
    const std::vector<std::uint64_t> hot =
        hot_entries(*set, entries, locked.snapshot.index().unit_bytes());
    const bool done = VOLT_TRY(laid_out(locked.snapshot.units(), hot, kept));
    if (done) return StorageChange{.changed = false};
  }
  return change_to_packs(packs, locked, options, std::move(kept));
}

Result<StorageChange> unpack_locked(const Store& store, const Reference& reference,
                                    unsigned threads) {
  const LockedSnapshot locked = VOLT_TRY(open_locked(store, reference));
  const OpenedSnapshot& snapshot = locked.snapshot;
  if (snapshot.is_raw()) return StorageChange{.changed = false};
  VOLT_TRY(snapshot.check_agreement());
  const Tidied tidied(locked.dir);
  NewFile memory = VOLT_TRY(NewFile::create(locked.dir, kNewMemory));
  const formats::MemoryIndex& index = snapshot.index();
  const auto copy = [&](UnitReader& reader, std::uint64_t i) -> Result<> {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const std::span<const std::byte> unit = VOLT_TRY(reader.read(i));
    return write_all(memory.file(), unit, entry.place, kMemoryFile);
  };
  VOLT_TRY(for_each_unit(snapshot, threads, copy));
  if (::ftruncate(memory.file().get(), static_cast<off_t>(snapshot.memory_bytes())) != 0) {
    return sys_error("ftruncate", kMemoryFile);
  }
  VOLT_TRY(memory.publish(kMemoryFile));
  VOLT_TRY(sync(locked.dir, "snapshot"));
  return StorageChange{.units = index.entry_count(),
                       .shared_units = 0,
                       .written_bytes = index.entry_count() * index.unit_bytes()};
}

}  // namespace

// Each of these ends with a sweep: the snapshot may have been removed while it was locked, and a
// pack may have lost its last user, or never have got one.
Result<StorageChange> pack(const Store& store, const Reference& reference,
                           const PackOptions& options) {
  Result<StorageChange> change = pack_locked(store, reference, options);
  store.sweep();
  return change;
}

Result<StorageChange> relayout(const Store& store, const Reference& reference,
                               const PackOptions& options) {
  Result<StorageChange> change = relayout_locked(store, reference, options);
  store.sweep();
  return change;
}

Result<StorageChange> unpack(const Store& store, const Reference& reference, unsigned threads) {
  Result<StorageChange> change = unpack_locked(store, reference, threads);
  store.sweep();
  return change;
}

Result<StorageChange> compact(const Store& store, const Reference& reference, Storage into,
                              const PackOptions& options) {
  return into == Storage::kRaw ? unpack(store, reference, options.threads)
                               : pack(store, reference, options);
}

Result<StorageChange> repack(const Store& store, const Packs& packs, const Reference& reference,
                             const PackOptions& options) {
  const LockedSnapshot locked = VOLT_TRY(open_locked(store, reference));
  if (locked.snapshot.is_raw()) return StorageChange{.changed = false};
  // What is in no pack is none of a pack's business.
  KeptUnits kept = VOLT_TRY(stored_units(locked.snapshot));
  std::vector<bool> stays;
  for (const formats::Container& container : kept.containers) {
    stays.push_back(container.kind != formats::Container::Kind::kPack);
  }
  kept.keep_in(stays);
  return change_to_packs(packs, locked, options, std::move(kept));
}

}  // namespace volt::snapshot
