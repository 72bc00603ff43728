// What the memory of each snapshot takes on disk, and how much of that others hold too.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

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

  // What the counted snapshots use of each container, by its file's name.
  std::map<std::string, std::uint64_t> live_bytes() const;

 private:
  struct Unit {
    std::uint32_t stored_bytes = 0;
    std::uint32_t users = 0;
  };
  // By container, by offset.
  std::map<std::string, std::unordered_map<std::uint64_t, Unit>> used_;
  std::map<std::string, bool> counted_;  // digests
};

// Every named snapshot that can be opened, counted.
Result<UsageCount> count_usage(const Store& store);

}  // namespace volt::snapshot
