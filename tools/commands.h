// Every command of `volt`, as the table that main() looks into.
#pragma once

#include <span>

#include "tools/options.h"

namespace volt::tools {

extern const Command kRun;
extern const Command kCall;
extern const Command kSnapshotCreate;
extern const Command kSnapshotRestore;
extern const Command kSnapshotLs;
extern const Command kSnapshotInspect;
extern const Command kSnapshotVerify;
extern const Command kSnapshotCompat;
extern const Command kSnapshotRm;
extern const Command kSnapshotPack;
extern const Command kSnapshotUnpack;
extern const Command kSnapshotCompact;
extern const Command kSnapshotSave;
extern const Command kSnapshotLoad;
extern const Command kSnapshotPrune;
extern const Command kSnapshotTree;
extern const Command kKernelFetch;
extern const Command kKernelImport;
extern const Command kKernelLs;
extern const Command kKernelRm;
extern const Command kPager;
extern const Command kBenchRestore;
extern const Command kBenchLinux;
extern const Command kDoctor;
extern const Command kVersion;

}  // namespace volt::tools
