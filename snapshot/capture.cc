#include "snapshot/capture.h"

#include <unistd.h>

#include <optional>
#include <utility>

#include "snapshot/clone_pages.h"
#include "snapshot/compatibility.h"
#include "snapshot/difference.h"
#include "snapshot/memory_writer.h"
#include "snapshot/state_codec.h"
#include "snapshot/working_set.h"
#include "vmm/identity.h"
#include "vmm/laps.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

std::string as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

formats::v1::FileRef ref_to(std::span<const std::byte> file) {
  formats::v1::FileRef ref;
  ref.set_size_bytes(file.size());
  ref.set_sha256(as_string(formats::sha256(file)));
  return ref;
}

// A finished file of the draft.
Result<> write_file(const Draft& draft, const char* name, std::span<const std::byte> bytes) {
  const Fd file = VOLT_TRY(draft.create_file(name));
  VOLT_TRY(write_all(file, bytes, 0, name));
  return sync(file, name);
}

using Memory = Sandbox::Origin::Memory;

struct Written {
  std::vector<formats::IndexEntry> entries;
  UnitCounts counts;
  std::vector<std::uint64_t> changed;  // units, where they were compared with a parent's
  std::vector<std::uint64_t> left;     // see CloneUnits; of a difference
};

ShownBy how_shown(const Sandbox& sandbox) {
  if (!sandbox.shows_snapshot()) return ShownBy::kCopy;
  return sandbox.pager().server() == nullptr ? ShownBy::kMap : ShownBy::kPager;
}

// What a sandbox's memory holds: everything, or what is not its parent's. What it still shows of
// its parent is not read through it.
Result<Written> write_sandbox(const Sandbox& sandbox, std::uint64_t unit_bytes, CaptureMode mode,
                              PageFinder finder, const Fd& file) {
  const vmm::GuestMemory& memory = sandbox.memory();
  if (!sandbox.shows_snapshot() && mode == CaptureMode::kFull) {
    OwnUnits units(unit_bytes);
    auto entries = VOLT_TRY(write_memory(memory, units, unit_bytes, file));
    const UnitCounts counts = {.changed = entries.size()};
    return Written{std::move(entries), counts, {}, {}};
  }
  // Whoever stopped at such a page stands in the midst of an instruction.
  if (const uffd::FaultServer* const pager = sandbox.pager().server();
      pager != nullptr && pager->failure()) {
    return fail(Code::kPageLost, "a page of guest memory cannot be had");
  }
  CloneUnits units = VOLT_TRY(
      CloneUnits::of(*sandbox.origin().snapshot, how_shown(sandbox), unit_bytes,
                     mode == CaptureMode::kDiff ? Unchanged::kLeave : Unchanged::kRead, finder));
  auto entries = VOLT_TRY(write_memory(memory, units, unit_bytes, file));
  return Written{std::move(entries),
                 units.counts(),
                 {units.changed().begin(), units.changed().end()},
                 units.left()};
}

// The sums of the working set: the parent's where nothing of it changed.
Result<> sum_written(const Sandbox& sandbox, const Written& written, std::uint64_t unit_bytes,
                     CaptureMode mode, const Fd& file, formats::v1::Guest& guest) {
  const vmm::GuestMemory& memory = sandbox.memory();
  const bool compared = sandbox.shows_snapshot() || mode == CaptureMode::kDiff;
  const bool changed =
      !compared || VOLT_TRY(overlaps_working_set(memory, guest, written.changed, unit_bytes));
  if (mode == CaptureMode::kDiff) {
    if (!changed) return {};
    return sum_changed_working_set(memory, file, written.changed, unit_bytes, guest);
  }
  if (!changed && guest.working_set_checksum() != 0) return {};
  return sum_working_set(memory, file, guest);
}

// The parent's files, linked into the draft, if this can be a difference.
Result<LinkedOrNot> link_parent(const Sandbox& sandbox, std::uint64_t unit_bytes,
                                const Store& store, const Draft& draft) {
  const Sandbox::Origin& origin = sandbox.origin();
  if (origin.memory == Memory::kForeign) {
    return LinkedOrNot{.parent = std::nullopt,
                       .why_not = "its memory was filled by a handler that is not ours"};
  }
  if (origin.snapshot == nullptr) {
    return fail(Code::kInvalid, "a guest that was booted has no parent to differ from");
  }
  if (unit_bytes != origin.unit_bytes) {
    return fail(Code::kInvalid, "a difference has its parent's units, of " +
                                    std::to_string(origin.unit_bytes) + " bytes");
  }
  LinkedOrNot linked = VOLT_TRY(LinkedParent::link(*origin.snapshot, draft.dir()));
  if (linked.parent) return linked;
  // It may be there still, but stored in other files by now.
  const Reference by_digest = {.name = {}, .tag = {}, .digest = origin.snapshot->digest()};
  const Result<OpenedSnapshot> now = OpenedSnapshot::open(store, by_digest);
  return now ? LinkedParent::link(*now, draft.dir()) : linked;
}

// Leaves the memory as it is to be stored, and says what that takes.
Result<std::uint64_t> store_memory(const Store& store, const Draft& draft, const Fd& memory,
                                   const CapturedUnits& all, const LinkedParent* parent,
                                   const CaptureOptions& options) {
  if (options.storage == Storage::kRaw) {
    if (parent != nullptr) return store_as_layer(all, *parent, draft.dir(), memory);
    VOLT_TRY(sync(memory, kMemoryFile));
    return all.entries.size() * all.unit_bytes;
  }
  const Packs packs = VOLT_TRY(Packs::open(store.packs(), Packs::Lock::kShared));
  if (parent != nullptr) {
    return store_in_packs(all, *parent, draft.dir(), memory, packs, options.pack);
  }
  const UnitsToPack units = {.entries = all.entries,
                             .memory_digest = all.memory_digest,
                             .unit_bytes = all.unit_bytes,
                             .make_reader = raw_reader(memory, all.entries)};
  const StorageChange change = VOLT_TRY(pack_into(packs, draft.dir(), units, options.pack));
  if (::unlinkat(draft.dir().get(), kMemoryFile, 0) != 0) return sys_error("unlink", kMemoryFile);
  return change.written_bytes;
}

void add_labels(const CaptureOptions& options, formats::Manifest& manifest) {
  for (const auto& [key, value] : options.labels) {
    formats::v1::Label& label = *manifest.add_labels();
    label.set_key(key);
    label.set_value(value);
  }
}

// All of it but the sums of the working set.
Result<> fill_manifest(Sandbox& sandbox, const formats::MachineState& state,
                       const CaptureOptions& options, formats::Manifest& manifest) {
  manifest.set_created_by("volt " VOLT_VERSION);
  manifest.set_created_unix_ns(vmm::wall_clock_ns());
  *manifest.mutable_compatibility() = describe_host(state, VOLT_TRY(sandbox.tsc_khz()));
  add_labels(options, manifest);
  manifest.set_parent(sandbox.facts().parent);
  manifest.set_boot_us(sandbox.facts().boot_us);
  manifest.mutable_guest()->set_generation(sandbox.generation());
  return formats::check(manifest);
}

}  // namespace

const char* capture_mode_name(CaptureMode mode) {
  return mode == CaptureMode::kFull ? "full" : "diff";
}

Result<CaptureMode> parse_capture_mode(std::string_view name) {
  for (const CaptureMode mode : {CaptureMode::kFull, CaptureMode::kDiff}) {
    if (name == capture_mode_name(mode)) return mode;
  }
  return fail(Code::kInvalid, "mode '" + std::string(name) + "': full or diff");
}

Result<Captured> capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                         const Reference& reference, const CaptureOptions& options) {
  Captured captured;
  vmm::Laps laps;
  if (options.if_taken == Store::IfTaken::kRefuse && store.exists(reference)) {
    return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
  }
  const std::uint64_t unit_bytes = options.unit_bytes.value_or(sandbox.origin().unit_bytes);
  VOLT_TRY(check_unit_bytes(unit_bytes));
  const formats::MachineState state = VOLT_TRY(sandbox.read_state(kvm));
  const std::vector<std::byte> state_file = formats::encode(state);
  captured.state_ns = laps.lap();

  Draft draft = VOLT_TRY(store.begin());
  const vmm::GuestMemory& memory = sandbox.memory();
  const Fd memory_file = VOLT_TRY(draft.create_file(kMemoryFile));
  LinkedOrNot linked;
  if (options.mode == CaptureMode::kDiff) {
    linked = VOLT_TRY(link_parent(sandbox, unit_bytes, store, draft));
  }
  const LinkedParent* const parent = linked.parent ? &*linked.parent : nullptr;
  captured.mode = parent == nullptr ? CaptureMode::kFull : CaptureMode::kDiff;
  captured.full_because = std::move(linked.why_not);
  const Result<Written> written =
      write_sandbox(sandbox, unit_bytes, captured.mode, options.page_finder, memory_file);
  if (!written) return std::unexpected(sandbox.explained(written.error()));
  const std::vector<formats::IndexEntry>& entries = written->entries;
  const std::vector<std::byte> index_file = formats::encode_memory_index(entries, unit_bytes);
  formats::Manifest manifest;
  *manifest.mutable_guest() = sandbox.facts().guest;
  VOLT_TRY(sum_written(sandbox, *written, unit_bytes, captured.mode, memory_file,
                       *manifest.mutable_guest()));
  captured.memory_ns = laps.lap();

  *manifest.mutable_memory() = describe_memory(memory, unit_bytes, entries);
  *manifest.mutable_state() = ref_to(state_file);
  *manifest.mutable_index() = ref_to(index_file);
  VOLT_TRY(fill_manifest(sandbox, state, options, manifest));
  const std::vector<std::byte> manifest_file = formats::encode(manifest);
  captured.digest = formats::sha256(manifest_file);
  captured.memory_digest = formats::memory_digest(entries, unit_bytes);
  captured.units = written->counts;
  captured.data_bytes = manifest.memory().stored_bytes();
  captured.apparent_bytes = memory.total_bytes();

  const CapturedUnits all = {.entries = entries,
                             .left = written->left,
                             .snapshot_digest = captured.digest,
                             .memory_digest = captured.memory_digest,
                             .unit_bytes = unit_bytes};
  captured.stored_bytes = VOLT_TRY(store_memory(store, draft, memory_file, all, parent, options));
  VOLT_TRY(write_file(draft, kStateFile, state_file));
  VOLT_TRY(write_file(draft, kIndexFile, index_file));
  VOLT_TRY(write_file(draft, kManifestFile, manifest_file));
  VOLT_TRY(store.publish(std::move(draft), captured.digest, reference, options.if_taken));
  captured.publish_ns = laps.lap();
  return captured;
}

}  // namespace volt::snapshot
