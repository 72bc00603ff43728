// What the tests of differences share.
#pragma once

#include "snapshot/difference.h"
#include "snapshot/storage.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {

using snapshot::Captured;
using snapshot::CaptureMode;
using snapshot::Depth;
using snapshot::kMemoryFile;
using snapshot::OpenedSnapshot;
using snapshot::Storage;

inline constexpr std::uint64_t kData = 7 * kMiB;  // within the working set

}  // namespace volt::test
