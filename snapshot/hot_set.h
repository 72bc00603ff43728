// Hot sets at work: recorded from the first restores of a snapshot, kept beside it, replayed by the
// later ones so that what a guest will touch is there before it does.
//
// Under loader uffd the pager is asked for the units of the hot pages, in the order of first touch,
// before the VM is built; a fault overtakes. A thread follows and populates the pages that will be
// written, each when its unit has come. Under loader map a thread beside the building of the
// VM asks the kernel to read ahead what the page cache lacks, then populates in batches the pages
// that will be written, which one by one would cost a fault through KVM each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/hot_set.h"
#include "snapshot/opened.h"
#include "uffd/page_source.h"

namespace volt::snapshot {

class Sandbox;

enum class HotSetMode {
  kOff,
  kReplay,  // the one there is
  kUse,     // the same; without one, record
  kRecord,  // record, and replace the one there is
};
Result<HotSetMode> parse_hot_set_mode(std::string_view name);

// What became of it in one restore.
enum class HotSetRole { kOff, kNone, kRecording, kReplayed };
const char* role_name(HotSetRole role);

// The snapshot's hot set, if it has one. kCorrupt if it is damaged, or not for its memory.
Result<std::optional<formats::HotSet>> read_hot_set(const OpenedSnapshot& snapshot);

struct HotSetPlan {
  HotSetRole role = HotSetRole::kOff;
  std::string why;      // in words
  formats::HotSet set;  // kReplayed
};
// `all_at_once`: the loader brings all memory in any case, so there is nothing to replay.
Result<HotSetPlan> plan_hot_set(HotSetMode mode, const OpenedSnapshot& snapshot, bool all_at_once);

// Units of the image that hold the hot pages, in the order of first touch.
std::vector<uffd::UnitRange> hot_units(const formats::HotSet& set, const OpenedSnapshot& snapshot);

// Ends a recording restore's recording and keeps it beside the snapshot, bounded and in order; says
// how many pages it has. After the calls that are worth it.
Result<std::uint64_t> save_hot_set(Sandbox& sandbox);

// In blocks of 64 KiB, as far as the kernel maps around a page that is read.
struct HotSetScore {
  std::uint64_t hits = 0;    // hot blocks that the guest used
  std::uint64_t misses = 0;  // other blocks that it used
  std::uint64_t waste = 0;   // hot blocks that it did not use
};
// By the page tables of this process, so it costs more than a restore: for reports. Only data
// counts; zero pages need nobody. A page that was populated for a write counts once it was written.
Result<HotSetScore> score_hot_set(const formats::HotSet& set, const Sandbox& sandbox);

}  // namespace volt::snapshot
