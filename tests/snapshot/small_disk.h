// A disk of a chosen size, for tests that fill it: a tmpfs in a mount namespace of a child.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <cstdint>
#include <string>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {

inline bool may_mount() {
  Child probe([] { check(::unshare(CLONE_NEWNS) == 0, "unshare"); });
  return probe.failure().empty();
}

// In the child: a file system of its own at `path`, seen by nobody else.
inline void mount_small(const std::string& path, const std::string& options) {
  must(make_directories(path));
  check(::unshare(CLONE_NEWNS) == 0, "unshare");
  check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "make mounts private");
  check(::mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()) == 0, "mount tmpfs");
}

inline void resize(const std::string& path, const std::string& options) {
  check(::mount("tmpfs", path.c_str(), "tmpfs", MS_REMOUNT, options.c_str()) == 0, "remount");
}

inline std::uint64_t used_blocks(const std::string& path) {
  struct statfs info = {};
  check(::statfs(path.c_str(), &info) == 0, "statfs");
  return info.f_blocks - info.f_bfree;
}

}  // namespace volt::test
