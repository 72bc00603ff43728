// What `volt bench linux` measures, line by line, and what it found, as a document and as a table.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/kernel_store.h"
#include "tools/restore_report.h"

namespace volt::tools {

// One event each, timed from the beginning of what leads to it.
enum class LinuxLine : std::uint8_t {
  // In this process, from before the kernel's file is opened.
  kColdBanner,  // the agent says that it is ready
  kColdFirstByte,
  kColdPanic,
  kColdPanicKeyboard,
  kWarmBanner,
  kWarmFirstByte,
  kWarmPanic,
  kWarmPanicKeyboard,
  // The second command in a guest; its end; boot, command, end.
  kCommandFirstByte,
  kCommandExit,
  kStop,
  kLifeCycle,
  // From the reference's text to the first command's first byte.
  kRestoreRawHot,
  kRestoreRaw,
  kRestorePackedHot,
  kRestorePacked,
  // While which the guest stands still.
  kFreeze,
  kCaptureRaw,
  kCapturePacked,
  kPauseRaw,
  kPausePacked,
  // Whole processes, from the spawn.
  kSpawnCold,
  kSpawnRawHot,
  kSpawnRaw,
  kSpawnPackedHot,
  kSpawnPacked,
  kSpawnPanic,
  kSpawnBanner,  // of a program that then powers off
  kQemuPanic,
  kQemuBanner,
  kCount,
};
inline constexpr std::size_t kLinuxLines = static_cast<std::size_t>(LinuxLine::kCount);

class LinuxSamples {
 public:
  Samples& operator[](LinuxLine line) { return samples_[static_cast<std::size_t>(line)]; }
  const Samples& operator[](LinuxLine line) const {
    return samples_[static_cast<std::size_t>(line)];
  }

 private:
  std::array<Samples, kLinuxLines> samples_;
};

// A way to restore: how memory is stored, and whether its hot set is replayed.
struct RestoreWay {
  const char* key;
  const char* label;
  bool packed, hot;
  LinuxLine in_process, spawned;
};
inline constexpr RestoreWay kRestoreWays[] = {
    {"raw_hot", "raw, hot set", false, true, LinuxLine::kRestoreRawHot, LinuxLine::kSpawnRawHot},
    {"raw", "raw", false, false, LinuxLine::kRestoreRaw, LinuxLine::kSpawnRaw},
    {"packed_hot", "packed, hot set", true, true, LinuxLine::kRestorePackedHot,
     LinuxLine::kSpawnPackedHot},
    {"packed", "packed", true, false, LinuxLine::kRestorePacked, LinuxLine::kSpawnPacked},
};
inline constexpr std::size_t kRestoreWayCount = std::size(kRestoreWays);

// What the restores of one way were like besides their time.
struct RestoreWayReport {
  PhaseSamples phases;
  snapshot::ChosenLoader loader;
  nlohmann::ordered_json hot_set;  // of the last clone
};

struct LinuxBenchPlan {
  std::uint64_t rounds = 0;
  Kernel kernel;
  std::string command_text;
  std::vector<std::string> command;
  std::uint64_t cpus = 0;
  std::uint64_t ram_bytes = 0;
};

struct LinuxBenchReport {
  LinuxSamples lines;
  std::string kernel_version;
  // Of the kernel, its modules and the initrd: what cold boots read, and what could not be dropped.
  std::uint64_t boot_file_bytes = 0;
  std::uint64_t stayed_cached_bytes = 0;  // at most, of all cold boots
  // Of the snapshot that was restored.
  std::uint64_t apparent_bytes = 0, raw_bytes = 0, packed_bytes = 0;
  std::uint64_t touched_pages = 0;  // up to the end of the first command, as its hot set has them
  std::array<RestoreWayReport, kRestoreWayCount> ways;
  std::string qemu;          // its path
  std::string qemu_missing;  // why it was not measured; empty if it was
};

nlohmann::ordered_json json_of(const LinuxBenchPlan& plan, const LinuxBenchReport& report);
std::string text_of(const LinuxBenchPlan& plan, const LinuxBenchReport& report);

}  // namespace volt::tools
