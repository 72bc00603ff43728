// Life under another VMM, booted by PVH: the same functions, asked for by lines on the serial port,
// so that Firecracker, Cloud Hypervisor and QEMU can be measured with the very image Volt runs.
//
//   command line  workload=echo|kv ws=BYTES mem=BYTES seed=N auto=1 fc_bt=1 ch_dbg=1
//   out           VMICRO READY <tsc>
//   in            <function> <argument> ...
//   out           ok <status> <checksum> <words> [<the first 8 words of data> ...]
//   in            quit
//
// Numbers are decimal on the command line (K, M, G allowed) and hexadecimal on the wire. auto=1
// asks nothing: it touches a page and prints "VMICRO TICK <n>" about once a second. fc_bt=1 and
// ch_dbg=1 ring Firecracker's and Cloud Hypervisor's boot timers at READY.
#pragma once

#include <cstdint>

#include "tools/guest/micro/guest.h"

namespace volt::guest {

[[noreturn]] void run_foreign(Guest& guest, std::uint64_t start_info);

}  // namespace volt::guest
