#include "snapshot/capture.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "snapshot/compatibility.h"
#include "snapshot/memory_writer.h"
#include "snapshot/state_codec.h"
#include "vmm/identity.h"
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

Result<formats::MachineState> read_state(const vmm::Kvm& kvm, Sandbox& sandbox) {
  VOLT_TRY(sandbox.machine().quiesce());
  const vmm::StateSources sources = VOLT_TRY(vmm::StateSources::probe(kvm));
  formats::MachineState state;
  for (const vmm::CpuState& cpu : VOLT_TRY(sandbox.machine().save(sources))) {
    *state.add_vcpus() = to_message(cpu);
  }
  if (sandbox.facts().resume) *state.mutable_resume() = *sandbox.facts().resume;
  VOLT_TRY(formats::check(state));
  return state;
}

struct Written {
  std::vector<formats::IndexEntry> entries;
  UnitCounts counts;
  bool same_working_set;  // as the parent's
};

// Where the working set is in the memory file: one range, whatever hole there is in the guest's
// addresses.
Result<std::uint64_t> working_set_place(const vmm::GuestMemory& memory,
                                        const formats::v1::Guest& guest) {
  return place_of(memory, guest_abi::working_set_page(guest.working_set_base(), 0));
}

Result<bool> overlaps_working_set(const vmm::GuestMemory& memory, const formats::v1::Guest& guest,
                                  std::span<const std::uint64_t> units, std::uint64_t unit_bytes) {
  if (guest.working_set_bytes() == 0) return false;
  const std::uint64_t first = VOLT_TRY(working_set_place(memory, guest));
  for (const std::uint64_t unit : units) {
    const std::uint64_t place = VOLT_TRY(place_of(memory, unit));
    if (place < first + guest.working_set_bytes() && first < place + unit_bytes) return true;
  }
  return false;
}

// Everything a sandbox's memory holds. What it still shows of its parent is not read through it.
Result<Written> write_sandbox(const Sandbox& sandbox, std::uint64_t unit_bytes, const Fd& file) {
  const vmm::GuestMemory& memory = sandbox.machine().memory();
  if (sandbox.origin().shown == nullptr) {
    OwnUnits units(unit_bytes);
    auto entries = VOLT_TRY(write_memory(memory, units, unit_bytes, file));
    const UnitCounts counts = {.changed = entries.size()};
    return Written{std::move(entries), counts, false};
  }
  const uffd::FaultServer* const pager = sandbox.pager().server();
  // Whoever stopped at such a page stands in the midst of an instruction.
  if (pager != nullptr && pager->failure()) {
    return fail(Code::kPageLost, "a page of guest memory cannot be had");
  }
  ParentUnits parent = VOLT_TRY(
      ParentUnits::of(*sandbox.origin().shown, pager == nullptr ? ShownBy::kMap : ShownBy::kPager));
  CloneUnits units(std::move(parent), unit_bytes);
  auto entries = VOLT_TRY(write_memory(memory, units, unit_bytes, file));
  const bool changed =
      VOLT_TRY(overlaps_working_set(memory, sandbox.facts().guest, units.changed(), unit_bytes));
  return Written{std::move(entries), units.counts(), !changed};
}

// The guest's own sums over its working set, computed by the host from what was written to `file`.
Result<> sum_working_set(const vmm::GuestMemory& memory, const Fd& file,
                         formats::v1::Guest& guest) {
  guest_abi::Checksum sum;
  guest.set_health_checksum(sum.value());
  guest.set_working_set_checksum(sum.value());
  const std::uint64_t pages = guest.working_set_bytes() / guest_abi::kPageBytes;
  if (pages == 0) return {};
  const std::uint64_t first = VOLT_TRY(working_set_place(memory, guest));
  std::vector<std::uint64_t> words(16 * guest_abi::kPageBytes / 8);
  for (std::uint64_t at = 0, end = pages * guest_abi::kPageBytes; at < end;) {
    const auto part =
        std::as_writable_bytes(std::span(words)).first(std::min(words.size() * 8, end - at));
    VOLT_TRY(read_exact(file, part, first + at, kMemoryFile));
    const std::size_t health = at == 0 ? guest_abi::kPageBytes / 8 : 0;  // it sums the first page
    sum.add_block(words.data(), health);
    if (at == 0) guest.set_health_checksum(sum.value());
    sum.add_block(words.data() + health, part.size() / 8 - health);
    at += part.size();
  }
  guest.set_working_set_checksum(sum.value());
  return {};
}

// Leaves the memory as it is to be stored, and says what that takes.
Result<std::uint64_t> store_memory(const Store& store, const Draft& draft, const Fd& memory,
                                   std::span<const formats::IndexEntry> entries,
                                   const formats::Manifest& manifest,
                                   const CaptureOptions& options) {
  if (options.storage == Storage::kRaw) {
    VOLT_TRY(sync(memory, kMemoryFile));
    return manifest.memory().stored_bytes();
  }
  UnitsToPack units = {.entries = entries,
                       .hot = {},
                       .memory_digest = {},
                       .unit_bytes = manifest.memory().unit_bytes(),
                       .make_reader = raw_reader(memory, entries)};
  const std::string& digest = manifest.memory().digest();
  std::memcpy(units.memory_digest.data(), digest.data(), digest.size());
  const Packs packs = VOLT_TRY(Packs::open(store.packs(), Packs::Lock::kShared));
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

}  // namespace

Result<Captured> capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                         const Reference& reference, const CaptureOptions& options) {
  Captured captured;
  std::uint64_t clock = vmm::monotonic_clock_ns();
  const auto lap = [&clock] {
    const std::uint64_t now = vmm::monotonic_clock_ns();
    return now - std::exchange(clock, now);
  };
  if (options.if_taken == Store::IfTaken::kRefuse && store.exists(reference)) {
    return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
  }
  const std::uint64_t unit_bytes = options.unit_bytes.value_or(sandbox.origin().unit_bytes);
  VOLT_TRY(check_unit_bytes(unit_bytes));
  const formats::MachineState state = VOLT_TRY(read_state(kvm, sandbox));
  const std::vector<std::byte> state_file = formats::encode(state);
  captured.state_ns = lap();

  Draft draft = VOLT_TRY(store.begin());
  const vmm::GuestMemory& memory = sandbox.machine().memory();
  const Fd memory_file = VOLT_TRY(draft.create_file(kMemoryFile));
  Result<Written> written = write_sandbox(sandbox, unit_bytes, memory_file);
  if (!written) return std::unexpected(sandbox.explained(std::move(written).error()));
  const std::vector<formats::IndexEntry>& entries = written->entries;
  const std::vector<std::byte> index_file = formats::encode_memory_index(entries, unit_bytes);
  formats::Manifest manifest;
  *manifest.mutable_guest() = sandbox.facts().guest;
  if (!written->same_working_set) {
    VOLT_TRY(sum_working_set(memory, memory_file, *manifest.mutable_guest()));
  }
  captured.memory_ns = lap();

  manifest.set_created_by("volt " VOLT_VERSION);
  manifest.set_created_unix_ns(vmm::wall_clock_ns());
  *manifest.mutable_memory() = describe_memory(memory, unit_bytes, entries);
  *manifest.mutable_state() = ref_to(state_file);
  *manifest.mutable_index() = ref_to(index_file);
  *manifest.mutable_compatibility() = describe_host(state, VOLT_TRY(sandbox.machine().tsc_khz()));
  add_labels(options, manifest);
  manifest.set_parent(sandbox.facts().parent);
  manifest.set_boot_us(sandbox.facts().boot_us);
  const auto& generation = sandbox.machine().exchange().identity().generation;
  manifest.mutable_guest()->set_generation(as_string(std::as_bytes(std::span(generation))));
  VOLT_TRY(formats::check(manifest));
  const std::vector<std::byte> manifest_file = formats::encode(manifest);

  captured.data_bytes = manifest.memory().stored_bytes();
  captured.stored_bytes =
      VOLT_TRY(store_memory(store, draft, memory_file, entries, manifest, options));
  VOLT_TRY(write_file(draft, kStateFile, state_file));
  VOLT_TRY(write_file(draft, kIndexFile, index_file));
  VOLT_TRY(write_file(draft, kManifestFile, manifest_file));
  captured.digest = formats::sha256(manifest_file);
  VOLT_TRY(store.publish(std::move(draft), captured.digest, reference, options.if_taken));
  captured.publish_ns = lap();
  captured.memory_digest = formats::memory_digest(entries, unit_bytes);
  captured.units = written->counts;
  captured.apparent_bytes = memory.total_bytes();
  return captured;
}

}  // namespace volt::snapshot
