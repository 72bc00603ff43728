// Snapshots of Linux guests, captured and restored in the bench's own process.
#pragma once

#include <string>
#include <utility>

#include "snapshot/store.h"
#include "tools/bench_linux_guest.h"

namespace volt::tools {

// One guest at its ready point, captured raw and packed, each with its hot set, in data directories
// of their own that go away with it.
class LinuxScratch {
 public:
  // Boots the guest, and notes in the report how large it came out.
  static Result<LinuxScratch> make(LinuxBench& bench);
  LinuxScratch(LinuxScratch&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  LinuxScratch& operator=(LinuxScratch&&) = delete;
  ~LinuxScratch();

  snapshot::Store store(bool packed) const {
    return snapshot::Store(path_ + (packed ? "/packed" : "/raw"));
  }
  // An initrd for other VMMs, too; see bench_banner.h.
  std::string banner_initrd() const { return path_ + "/banner"; }
  static snapshot::Reference reference() { return {"bench", "latest", std::nullopt}; }

 private:
  explicit LinuxScratch(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// A cold boot, its first command, and then how long captures keep the guest still.
Result<> measure_cold_boot_and_capture(LinuxBench& bench, const LinuxScratch& scratch);
// One restore, up to the end of the first command; kRestoreWays[way].
Result<> measure_restore(LinuxBench& bench, const LinuxScratch& scratch, std::size_t way);

}  // namespace volt::tools
