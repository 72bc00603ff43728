// What the memory of each snapshot takes on disk, and how much of that others hold too.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "snapshot/opened.h"

namespace volt::snapshot {

struct Usage {
  std::uint64_t stored_bytes = 0;  // all that a restore may need
  std::uint64_t shared_bytes = 0;  // of it, what at least one other snapshot needs too
  std::uint64_t unique_bytes() const { return stored_bytes - shared_bytes; }
};

// Who uses which stored unit. Snapshots are added first, then asked about.
class UsageCount {
 public:
  // One of many names of a snapshot that is counted already adds nothing.
  Result<> add(const OpenedSnapshot& snapshot);
  Result<Usage> of(const OpenedSnapshot& snapshot) const;

  // What the counted snapshots use of each pack, by its file's name.
  std::map<std::string, std::uint64_t> live_bytes() const;

 private:
  struct Unit {
    std::uint32_t stored_bytes = 0;
    std::uint32_t users = 0;
  };
  // Names do not tell files apart: a snapshot's `memory` is a layer of another, and a layer that
  // was folded and written anew has its old name.
  using FileId = std::pair<std::uint64_t, std::uint64_t>;
  struct File {
    std::string name;
    std::unordered_map<std::uint64_t, Unit> units;  // by offset
  };
  Result<> add_raw(const OpenedSnapshot& snapshot);
  static Result<FileId> id_of(const Fd& file, const std::string& name);

  std::map<FileId, File> used_;
  std::map<std::string, bool> counted_;  // digests
};

// Every named snapshot that can be opened, counted.
Result<UsageCount> count_usage(const Store& store);

}  // namespace volt::snapshot
