// A lock on a file that others hold for a moment only.
#pragma once

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::vmm {

// flock(2), for half a second: whoever has a use for it here holds it for a few system calls.
// False: somebody keeps it.
Result<bool> lock_soon(const Fd& file, int operation);

}  // namespace volt::vmm
