#include "snapshot/loader.h"

#include <sys/mman.h>

#include <algorithm>

#include "snapshot/ordered_work.h"
#include "snapshot/snapshot_source.h"
#include "snapshot/unit_reader.h"

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

Result<LoadedMemory> load_uffd(const std::shared_ptr<const OpenedSnapshot>& snapshot,
                               const MemoryOptions& options) {
  auto image =
      VOLT_TRY(uffd::SharedImage::create(snapshot->memory_bytes(), snapshot->index().unit_bytes()));
  std::shared_ptr<uffd::FaultServer> server = VOLT_TRY(uffd::FaultServer::start(
      std::move(image), std::make_unique<SnapshotSource>(snapshot), options.faults));
  if (options.hot_set.role == HotSetRole::kReplayed) {
    VOLT_TRY(server->prefetch(hot_units(options.hot_set.set, *snapshot)));
  }
  const bool record = options.hot_set.role == HotSetRole::kRecording;
  GuestMemory memory = VOLT_TRY(map_regions(*snapshot, server->image_fd(), "image"));
  uffd::Userfaultfd uffd = VOLT_TRY(uffd::Userfaultfd::open());
  std::vector<uffd::View> views;
  const auto& regions = snapshot->manifest().memory().regions();
  for (int i = 0; i < regions.size(); ++i) {
    const GuestMemory::Region& region = memory.regions()[static_cast<std::size_t>(i)];
    for (const GuestMemory::Range& part : region.backed) {
      const std::span<std::byte> host = region.host.bytes().subspan(part.offset, part.bytes);
      VOLT_TRY(record ? uffd.register_missing_and_minor(host) : uffd.register_missing(host));
      views.push_back({host, regions[i].file_offset() + part.offset});
    }
  }
  uffd::CloneOptions clone;
  if (record) {
    clone.kind = uffd::CloneOptions::Kind::kRecording;
    clone.recorded_pages_max = kMaxRecordedPages;
  }
  const std::uint64_t id = VOLT_TRY(server->attach(std::move(uffd), std::move(views), clone));
  return LoadedMemory{PagedClone(std::move(server), id), std::move(memory),
                      vmm::Attach::kDataFirst};
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

Result<ChosenLoader> choose_loader(Loader asked, bool stored_raw) {
  if (asked == Loader::kMap && !stored_raw) {
    return fail(
        Code::kConflict,
        "loader map needs memory in one raw file, and this is in packs or layers: `volt snapshot "
        "compact` or `unpack` makes one");
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

}  // namespace volt::snapshot
