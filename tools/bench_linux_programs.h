// What a user waits for: whole processes, from their spawn. This program's own commands, and QEMU's
// microvm with the same kernel.
#pragma once

#include "tools/bench_linux_snapshot.h"

namespace volt::tools {

// `volt run --kernel K --initrd I -- COMMAND` with its files out of the page cache.
Result<> measure_spawned_boot(LinuxBench& bench);
// `volt run --from REF -- COMMAND`; kRestoreWays[way].
Result<> measure_spawned_restore(LinuxBench& bench, const LinuxScratch& scratch, std::size_t way);
// `volt run --kernel K`, which panics for want of a root, to its end.
Result<> measure_spawned_panic(LinuxBench& bench);

// The same with an initrd that prints a line and powers off.
Result<> measure_spawned_banner(LinuxBench& bench, const LinuxScratch& scratch);

// Where QEMU is, or in the report why it will not be measured.
void find_qemu(LinuxBench& bench);
// The same two there. What goes wrong is told in the report, and QEMU is left out from then on.
Result<> measure_qemu_panic(LinuxBench& bench);
Result<> measure_qemu_banner(LinuxBench& bench, const LinuxScratch& scratch);

}  // namespace volt::tools
