#include "snapshot/hot_set.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "snapshot/private_pages.h"
#include "snapshot/sandbox.h"
#include "snapshot/storage.h"
#include "vmm/os/fault_guard.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using formats::HotPage;

constexpr char kNewHotSet[] = "hotset.new";
// The kernel maps what is near a page that is read: what was used is known by 64 KiB.
constexpr std::uint64_t kPagesPerBlock = 16;
Result<> write_hot_set(const OpenedSnapshot& snapshot, const formats::HotSet& set) {
  const Fd dir = VOLT_TRY(lock_storage(snapshot));
  ::unlinkat(dir.get(), kNewHotSet, 0);
  const Fd file = VOLT_TRY(open_at(dir.get(), kNewHotSet, O_WRONLY | O_CREAT | O_EXCL, 0444));
  Result<> put = write_all(file, formats::encode_hot_set(set), 0, kHotSetFile);
  if (put) put = sync(file, kHotSetFile);
  if (put && ::renameat(dir.get(), kNewHotSet, dir.get(), kHotSetFile) != 0) {
    put = sys_error("rename", kHotSetFile);
  }
  if (!put) ::unlinkat(dir.get(), kNewHotSet, 0);
  return put;
}

// Pages of a region's data that are in this process's page tables, as offsets in the region.
Result<std::vector<std::uint64_t>> present_pages(const vmm::GuestMemory::Region& region) {
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  const Fd pagemap = VOLT_TRY(open_at(AT_FDCWD, "/proc/self/pagemap", O_RDONLY));
  std::vector<std::uint64_t> present;
  std::vector<std::uint64_t> entries(8192);
  for (const vmm::GuestMemory::Range& range : region.backed) {
    const std::uint64_t first =
        reinterpret_cast<std::uintptr_t>(region.host.data() + range.offset) / kPageBytes;
    const std::uint64_t count = range.bytes / kPageBytes;
    for (std::uint64_t at = 0; at < count; at += entries.size()) {
      const auto part =
          std::span(entries).first(std::min<std::uint64_t>(entries.size(), count - at));
      VOLT_TRY(read_exact(pagemap, std::as_writable_bytes(part), (first + at) * 8, "pagemap"));
      for (std::uint64_t i = 0; i < part.size(); ++i) {
        if ((part[i] & kPresent) != 0) present.push_back(range.offset + (at + i) * kPageBytes);
      }
    }
  }
  return present;
}

// Whether a page no longer holds what the memory file has: one that was populated and never written
// does.
Result<bool> differs(const Sandbox& sandbox, std::uint64_t address,
                     std::span<const std::byte> host) {
  const OpenedSnapshot& snapshot = *sandbox.origin().snapshot;
  std::array<std::byte, kPageBytes> now, before;
  VOLT_TRY(guarded_copy(now, host));
  const auto place = file_offset(snapshot.manifest().memory(), address);
  if (const uffd::FaultServer* const server = sandbox.pager().server(); server != nullptr) {
    const std::uint64_t unit_bytes = snapshot.index().unit_bytes();
    const auto unit = server->unit(*place / unit_bytes);
    std::ranges::copy(unit.subspan(*place % unit_bytes, kPageBytes), before.begin());
  } else {
    VOLT_TRY(read_exact(snapshot.memory(), before, *place, kMemoryFile));
  }
  return now != before;
}

}  // namespace

Result<std::optional<formats::HotSet>> read_hot_set(const OpenedSnapshot& snapshot) {
  const Result<Fd> file = open_at(snapshot.directory().get(), kHotSetFile, O_RDONLY);
  if (!file && file.error().code == Code::kNotFound) return std::nullopt;
  if (!file) return std::unexpected(file.error());
  constexpr std::size_t kMax =
      formats::kHotSetHeadBytes + formats::kMaxHotPages * 8 + sizeof(formats::Xxh128);
  const std::vector<std::byte> bytes = VOLT_TRY(read_whole(*file, kMax, kHotSetFile));
  formats::HotSet set = VOLT_TRY(formats::decode_hot_set(bytes));
  const formats::v1::Memory& memory = snapshot.manifest().memory();
  if (std::memcmp(set.digest.data(), memory.digest().data(), set.digest.size()) != 0) {
    return fail(Code::kCorrupt, "hotset: digest: it is of another memory");
  }
  for (const HotPage& page : set.pages) {
    if (!file_offset(memory, page.page * kPageBytes)) {
      return fail(Code::kCorrupt, "hotset: page " + std::to_string(page.page) + ": not in memory");
    }
  }
  return set;
}

Result<HotSetMode> parse_hot_set_mode(std::string_view name) {
  if (name == "off") return HotSetMode::kOff;
  if (name == "use") return HotSetMode::kUse;
  if (name == "record") return HotSetMode::kRecord;
  return fail(Code::kInvalid, "hotset '" + std::string(name) + "': use, record or off");
}

const char* role_name(HotSetRole role) {
  switch (role) {
    case HotSetRole::kOff:
      return "off";
    case HotSetRole::kNone:
      return "none";
    case HotSetRole::kRecording:
      return "recording";
    case HotSetRole::kReplayed:
      return "replayed";
  }
  return "?";
}

Result<HotSetPlan> plan_hot_set(HotSetMode mode, const OpenedSnapshot& snapshot, bool all_at_once) {
  if (mode == HotSetMode::kOff) return HotSetPlan{};
  if (mode != HotSetMode::kRecord && all_at_once) {
    return HotSetPlan{HotSetRole::kNone, "loader copy brings all memory in any case", {}};
  }
  if (mode != HotSetMode::kRecord) {
    auto set = VOLT_TRY(read_hot_set(snapshot));
    if (set) return HotSetPlan{HotSetRole::kReplayed, "recorded before", *std::move(set)};
  }
  if (mode == HotSetMode::kReplay) return HotSetPlan{HotSetRole::kNone, "none is recorded", {}};
  const Result<> usable = uffd_usable();
  const bool writable = ::faccessat(snapshot.directory().get(), ".", W_OK, AT_EACCESS) == 0;
  if (usable && writable) {
    return HotSetPlan{
        HotSetRole::kRecording, "first touches are written down, which is slower", {}};
  }
  const std::string why =
      usable ? "this user may not write to the snapshot's directory" : usable.error().context;
  if (mode == HotSetMode::kUse) {
    return HotSetPlan{HotSetRole::kNone, "none is recorded, and " + why, {}};
  }
  return fail(usable ? Code::kSystem : Code::kHostUnable, "recording a hot set: " + why);
}

std::vector<uffd::UnitRange> hot_units(const formats::HotSet& set, const OpenedSnapshot& snapshot) {
  const formats::v1::Memory& memory = snapshot.manifest().memory();
  std::vector<bool> seen(memory_bytes(memory) / memory.unit_bytes());
  std::vector<uffd::UnitRange> ranges;
  for (const HotPage& page : set.pages) {
    const auto offset = data_offset(memory, page.page);
    if (!offset) continue;
    const std::uint64_t unit = *offset / memory.unit_bytes();
    if (seen[unit]) continue;
    seen[unit] = true;
    if (!ranges.empty() && ranges.back().first + ranges.back().count == unit) {
      ++ranges.back().count;
    } else {
      ranges.push_back({.first = unit, .count = 1});
    }
  }
  return ranges;
}

Result<std::uint64_t> save_hot_set(Sandbox& sandbox) {
  if (sandbox.origin().memory != Sandbox::Origin::Memory::kShown) {
    return fail(Code::kInvalid, "its memory shows no snapshot");
  }
  const std::shared_ptr<const OpenedSnapshot> snapshot = sandbox.origin().snapshot;
  const uffd::Recording recording = sandbox.take_recording();
  formats::HotSet set = {};
  const std::string& digest = snapshot->manifest().memory().digest();
  std::memcpy(set.digest.data(), digest.data(), set.digest.size());
  std::unordered_map<std::uint64_t, std::size_t> place;  // of a page in the set
  const auto add = [&](std::uint64_t page, bool written) {
    const auto [at, is_new] = place.try_emplace(page, set.pages.size());
    if (!is_new) set.pages[at->second].written |= written;
    if (is_new && set.pages.size() < formats::kMaxHotPages) set.pages.push_back({page, written});
  };
  for (const uffd::Recording::Touch& touch : recording.touches) {
    add(snapshot->guest_address(touch.image_offset) / kPageBytes, false);
  }
  // Written is what is private now; a page of zeros that nobody watches shows only here. KVM hands
  // a fault that must wait to a thread of its own, which asks for a page to write whatever the
  // guest does: a private page that has the snapshot's bytes was only read.
  for (const vmm::GuestMemory::Region& region : sandbox.memory().regions()) {
    for (const PageRange& own : VOLT_TRY(own_pages(region))) {
      for (std::uint64_t n = own.first; n < own.first + own.count; ++n) {
        const std::uint64_t page = region.guest_base / kPageBytes + n;
        const bool data = data_offset(snapshot->manifest().memory(), page).has_value();
        if (data && !place.contains(page)) continue;  // beyond the bound, so it is not hot
        const auto host = region.host.bytes().subspan(n * kPageBytes, kPageBytes);
        bool written = true;
        if (data) written = VOLT_TRY(differs(sandbox, page * kPageBytes, host));
        add(page, written);
      }
    }
  }
  VOLT_TRY_IN("hot set", write_hot_set(*snapshot, set));
  return set.pages.size();
}

Result<HotSetScore> score_hot_set(const formats::HotSet& set, const Sandbox& sandbox) {
  if (sandbox.origin().memory != Sandbox::Origin::Memory::kShown) return HotSetScore{};
  const std::shared_ptr<const OpenedSnapshot>& snapshot = sandbox.origin().snapshot;
  const formats::v1::Memory& memory = snapshot->manifest().memory();
  std::unordered_set<std::uint64_t> hot, used, populated;
  for (const HotPage& page : set.pages) {
    if (!data_offset(memory, page.page)) continue;
    hot.insert(page.page / kPagesPerBlock);
    if (page.written) populated.insert(page.page);
  }
  for (const vmm::GuestMemory::Region& region : sandbox.memory().regions()) {
    for (const std::uint64_t offset : VOLT_TRY(present_pages(region))) {
      const std::uint64_t address = region.guest_base + offset;
      const auto host = region.host.bytes().subspan(offset, kPageBytes);
      bool touched = true;
      if (populated.contains(address / kPageBytes)) {
        touched = VOLT_TRY(differs(sandbox, address, host));
      }
      if (touched) used.insert(address / kPageBytes / kPagesPerBlock);
    }
  }
  HotSetScore score;
  for (const std::uint64_t block : used) ++(hot.contains(block) ? score.hits : score.misses);
  score.waste = hot.size() - score.hits;
  return score;
}

}  // namespace volt::snapshot
