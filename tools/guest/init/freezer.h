// Stops every process of the guest but the agent, by the freezer of control groups (version 2): it
// holds a process where it would return to user mode, so none stops with a lock of the kernel's,
// and whoever is forked meanwhile is born frozen.
//
// Below the root of the hierarchy the agent has the group `volt-agent` for itself and `volt` for
// all it starts. Frozen are all groups directly below the root but its own: that is, a
// distribution's slices and scopes too, and its init. Processes in the root itself, which has no
// freezer, are moved to `volt` first; threads of the kernel are left alone.
#pragma once

#include <cstdint>

#include "tools/guest/init/files.h"
#include "tools/guest/init/log.h"
#include "vmm/os/fd.h"

namespace volt::init {

class Freezer {
 public:
  // Null looks for the hierarchy where distributions have it, and else mounts one. errno or 0;
  // without it commands run, and FREEZE fails.
  int open(const char* root);

  int command_group() const { return command_procs_.get(); }  // for writing "0"; -1 without

  // False, with everything thawed, if it cannot be done in time (of now_ms()).
  bool freeze(std::int64_t deadline_ms, std::uint32_t& groups, Failure& failure);
  bool thaw(Failure& failure);

 private:
  bool freeze_new_groups(Failure& failure);
  bool move_stragglers(bool& moved, Failure& failure);
  bool agent_alone() const;
  bool try_freeze(std::int64_t deadline_ms, Failure& failure);

  char root_[256] = {};
  Fd command_procs_;
  Names frozen_;  // groups that were running before
};

}  // namespace volt::init
