#include "snapshot/loader.h"

#include <sys/mman.h>

#include <algorithm>

#include "formats/head.h"
#include "snapshot/ordered_work.h"
#include "snapshot/snapshot_source.h"
#include "snapshot/unit_reader.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using vmm::GuestMemory;

// A hot set is what a guest touches first: 256 MiB of it are enough.
constexpr std::size_t kMaxRecordedPages = 65'536;

// A part of a region with content behind it: where it is in the region, and in the memory file.
struct Part {
  std::uint64_t in_region;
  std::uint64_t file_offset;
  std::uint64_t bytes;
};

// The manifest's extents, cut at the region's ends.
std::vector<Part> parts_of(const formats::v1::Region& region, const formats::v1::Memory& memory) {
  std::vector<Part> parts;
  const std::uint64_t end = region.file_offset() + region.size_bytes();
  for (const formats::v1::Extent& extent : memory.data()) {
    const std::uint64_t from = std::max(extent.file_offset(), region.file_offset());
    const std::uint64_t to = std::min(extent.file_offset() + extent.size_bytes(), end);
    if (from < to) parts.push_back({from - region.file_offset(), from, to - from});
  }
  return parts;
}

// Maps `fd` privately over a part of a region that is reserved already.
Result<> map_part(const Mapping& region, const Part& part, int fd, const char* what) {
  void* const at = region.data() + part.in_region;
  const void* const got =
      ::mmap(at, part.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
             static_cast<off_t>(part.file_offset));
  if (got == MAP_FAILED) return sys_error("mmap", what);
  return {};
}

// Zero runs stay anonymous memory, which nothing has to be read or asked for.
Result<GuestMemory> map_regions(const OpenedSnapshot& snapshot, int fd, const char* what) {
  const formats::v1::Memory& layout = snapshot.manifest().memory();
  std::vector<GuestMemory::Region> regions;
  regions.reserve(static_cast<std::size_t>(layout.regions_size()));
  for (const formats::v1::Region& region : layout.regions()) {
    GuestMemory::Region mapped = {.guest_base = region.guest_base(),
                                  .host = VOLT_TRY(GuestMemory::reserve(region.size_bytes())),
                                  .backed = {}};
    for (const Part& part : parts_of(region, layout)) {
      VOLT_TRY(map_part(mapped.host, part, fd, what));
      mapped.backed.push_back({part.in_region, part.bytes});
    }
    VOLT_TRY(GuestMemory::settle(mapped.host.bytes()));
    regions.push_back(std::move(mapped));
  }
  return GuestMemory(std::move(regions));
}

Result<LoadedMemory> load_map(const OpenedSnapshot& snapshot, const HotSetPlan& hot_set) {
  const int file = snapshot.memory().get();
  GuestMemory memory = VOLT_TRY(map_regions(snapshot, file, kMemoryFile));
  LoadedMemory loaded({}, std::move(memory), vmm::Attach::kDataFirst);
  if (hot_set.role == HotSetRole::kReplayed) {
    loaded.populating = Populating::start(hot_set.set, snapshot, loaded.memory, file);
  }
  return loaded;
}

Result<LoadedMemory> load_copy(const OpenedSnapshot& snapshot) {
  std::vector<vmm::RegionLayout> layout;
  for (const formats::v1::Region& region : snapshot.manifest().memory().regions()) {
    layout.push_back({region.guest_base(), region.size_bytes()});
  }
  GuestMemory memory = VOLT_TRY(GuestMemory::anonymous(layout));
  const formats::MemoryIndex& index = snapshot.index();
  const auto copy = [&](UnitReader& reader, std::uint64_t i) -> Result<> {
    const formats::IndexEntry entry = VOLT_TRY(index.at(i));
    const auto unit = memory.at(entry.unit * index.unit_bytes(), index.unit_bytes());
    if (unit) return reader.read(i, *unit);
    return fail(Code::kCorrupt, "index: entry " + std::to_string(i) + ": unit: not in memory");
  };
  VOLT_TRY(for_each_unit(snapshot, default_threads(), copy));
  return LoadedMemory{{}, std::move(memory), vmm::Attach::kAll};
}

enum class Sees { kMissing, kMissingAndMinor };

// Registers what shows the image; where each part of it is.
Result<std::vector<uffd::View>> register_backed(uffd::Userfaultfd& uffd, const GuestMemory& memory,
                                                const formats::v1::Memory& layout, Sees sees) {
  std::vector<uffd::View> views;
  for (int i = 0; i < layout.regions_size(); ++i) {
    const GuestMemory::Region& region = memory.regions()[static_cast<std::size_t>(i)];
    for (const GuestMemory::Range& part : region.backed) {
      const std::span<std::byte> host = region.host.bytes().subspan(part.offset, part.bytes);
      VOLT_TRY(sees == Sees::kMissing ? uffd.register_missing(host)
                                      : uffd.register_missing_and_minor(host));
      views.push_back({host, layout.regions(i).file_offset() + part.offset});
    }
  }
  return views;
}

Result<LoadedMemory> load_uffd(const std::shared_ptr<const OpenedSnapshot>& snapshot,
                               const MemoryOptions& options) {
  auto image =
      VOLT_TRY(uffd::SharedImage::create(snapshot->memory_bytes(), snapshot->index().unit_bytes()));
  auto source = std::make_unique<SnapshotSource>(snapshot);
  const SnapshotSource* const counted = source.get();
  const bool replay = options.hot_set.role == HotSetRole::kReplayed;
  const auto arrivals = std::make_shared<Arrivals>();
  uffd::FaultOptions faults = options.faults;
  if (replay) faults.on_ahead = [arrivals](std::uint64_t unit) { arrivals->add(unit); };
  std::shared_ptr<uffd::FaultServer> server =
      VOLT_TRY(uffd::FaultServer::start(std::move(image), std::move(source), faults));
  if (replay) {
    VOLT_TRY(server->prefetch(hot_units(options.hot_set.set, *snapshot)));
  }
  const bool record = options.hot_set.role == HotSetRole::kRecording;
  GuestMemory memory = VOLT_TRY(map_regions(*snapshot, server->image_fd(), "image"));
  uffd::Userfaultfd uffd = VOLT_TRY(uffd::Userfaultfd::open());
  const Sees sees = record ? Sees::kMissingAndMinor : Sees::kMissing;
  std::vector<uffd::View> views =
      VOLT_TRY(register_backed(uffd, memory, snapshot->manifest().memory(), sees));
  uffd::CloneOptions clone;
  if (record) {
    clone.kind = uffd::CloneOptions::Kind::kRecording;
    clone.recorded_pages_max = kMaxRecordedPages;
  }
  const std::uint64_t id = VOLT_TRY(server->attach(std::move(uffd), std::move(views), clone));
  LoadedMemory loaded{PagedClone(std::move(server), counted, id), std::move(memory),
                      vmm::Attach::kDataFirst};
  if (replay) {
    loaded.populating = Populating::behind(options.hot_set.set, *snapshot, loaded.memory, arrivals);
  }
  return loaded;
}

}  // namespace

const char* loader_name(Loader loader) {
  switch (loader) {
    case Loader::kAuto:
      return "auto";
    case Loader::kMap:
      return "map";
    case Loader::kUffd:
      return "uffd";
    case Loader::kCopy:
      return "copy";
  }
  return "?";
}

Result<Loader> parse_loader(std::string_view name) {
  for (const Loader loader : {Loader::kAuto, Loader::kMap, Loader::kUffd, Loader::kCopy}) {
    if (name == loader_name(loader)) return loader;
  }
  return fail(Code::kInvalid, "loader '" + std::string(name) + "': auto, map, uffd or copy");
}

Result<> uffd_usable() {
  VOLT_TRY(uffd::Userfaultfd::open());
  return {};
}

bool pages_can_be_poisoned() {
  const auto opened = uffd::Userfaultfd::open();
  return opened && (opened->offered() & uffd::abi::kFeaturePoison) != 0;
}

Result<ChosenLoader> choose_loader(Loader asked, bool stored_raw) {
  if (asked == Loader::kMap && !stored_raw) {
    return fail(Code::kConflict,
                "loader map needs memory in one raw file, and this is in packs or layers");
  }
  if (asked != Loader::kAuto) return ChosenLoader{asked, "asked for"};
  if (stored_raw) {
    return ChosenLoader{Loader::kMap,
                        "the memory is a local raw file, which the kernel maps without a copy"};
  }
  if (const Result<> usable = uffd_usable(); !usable) {
    return ChosenLoader{Loader::kCopy,
                        "the memory is no one raw file, and " + usable.error().context};
  }
  return ChosenLoader{Loader::kUffd, "the memory is no one raw file: only what is touched is read"};
}

Result<LoadedMemory> load_memory(Loader loader,
                                 const std::shared_ptr<const OpenedSnapshot>& snapshot,
                                 const MemoryOptions& options) {
  // First touches show only to a pager.
  if (options.hot_set.role == HotSetRole::kRecording) return load_uffd(snapshot, options);
  switch (loader) {
    case Loader::kAuto:
      break;  // choose_loader() comes first
    case Loader::kMap:
      return load_map(*snapshot, options.hot_set);
    case Loader::kUffd:
      return load_uffd(snapshot, options);
    case Loader::kCopy:
      return load_copy(*snapshot);
  }
  return fail(Code::kInvalid, "no such loader");
}

Result<std::shared_ptr<const OpenedSnapshot>> describe(const uffd::PagerClient& pager) {
  constexpr std::uint64_t kMaxDocument = formats::kHeadBytes + formats::kMaxBodyBytes;
  const auto [manifest_bytes, state_bytes] = pager.welcome().document_bytes;
  if (manifest_bytes > kMaxDocument || state_bytes > kMaxDocument) {
    return fail(Code::kCorrupt, "pager: the snapshot's manifest or state is too large");
  }
  std::vector<std::byte> manifest(manifest_bytes), state(state_bytes);
  VOLT_TRY(read_exact(pager.documents(), manifest, 0, "manifest from the pager"));
  VOLT_TRY(read_exact(pager.documents(), state, manifest_bytes, "state from the pager"));
  auto snapshot = std::make_shared<const OpenedSnapshot>(
      VOLT_TRY_IN("pager", OpenedSnapshot::described(manifest, state)));
  if (snapshot->memory_bytes() != pager.welcome().image_bytes ||
      snapshot->manifest().memory().unit_bytes() != pager.welcome().unit_bytes) {
    return fail(Code::kCorrupt, "pager: its image is not the one the manifest names");
  }
  return snapshot;
}

Result<LoadedMemory> load_from_pager(const OpenedSnapshot& snapshot,
                                     std::unique_ptr<uffd::PagerClient> pager,
                                     uffd::pager::Mode mode,
                                     std::optional<uffd::LostPages> lost_pages) {
  const std::uint64_t bytes = VOLT_TRY(file_size(pager->image(), "image from the pager"));
  if (bytes != snapshot.memory_bytes()) {
    return fail(Code::kCorrupt, "pager: its image is not as long as it says");
  }
  uffd::Userfaultfd uffd = VOLT_TRY(uffd::Userfaultfd::open());
  GuestMemory memory = VOLT_TRY(map_regions(snapshot, pager->image().get(), "image"));
  const Sees sees = mode == uffd::pager::Mode::kIsolated ? Sees::kMissingAndMinor : Sees::kMissing;
  std::vector<uffd::View> views =
      VOLT_TRY(register_backed(uffd, memory, snapshot.manifest().memory(), sees));
  pager->close_files();
  // From here on the memory goes before the pager's hold on it, whatever happens.
  LoadedMemory loaded{PagedClone(std::move(pager)), std::move(memory), vmm::Attach::kDataFirst};
  VOLT_TRY(loaded.pager.hand_over(std::move(uffd), std::move(views), lost_pages));
  return loaded;
}

Result<LoadedMemory> load_from_handler(const OpenedSnapshot& snapshot, const std::string& path) {
  std::vector<vmm::RegionLayout> layout;
  std::vector<uffd::View> views;
  const auto& regions = snapshot.manifest().memory().regions();
  for (const auto& region : regions) layout.push_back({region.guest_base(), region.size_bytes()});
  GuestMemory memory = VOLT_TRY(GuestMemory::anonymous(layout));
  uffd::Userfaultfd uffd = VOLT_TRY(uffd::Userfaultfd::open(UFFD_FEATURE_EVENT_REMOVE));
  for (int i = 0; i < regions.size(); ++i) {
    const auto host = memory.regions()[static_cast<std::size_t>(i)].host.bytes();
    VOLT_TRY(uffd.register_missing(host));
    views.push_back({host, regions[i].file_offset()});
  }
  LoadedMemory loaded{PagedClone(VOLT_TRY(uffd::PagerClient::connect_handler(path))),
                      std::move(memory), vmm::Attach::kAll};
  VOLT_TRY(loaded.pager.hand_over(std::move(uffd), std::move(views), std::nullopt));
  return loaded;
}

}  // namespace volt::snapshot
