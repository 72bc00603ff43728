// The modules of a kernel that a guest of ours needs: which, in which order, and out of their
// packing. Module files are trusted as far as the kernel they are for; here they only have to be
// read safely.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "vmm/os/error.h"

namespace volt::tools {

struct KernelModule {
  std::string name;  // as the kernel knows it: virtio_blk
  std::vector<std::byte> bytes;
};

// Those that are in `directory`, a kernel's tree of modules (lib/modules/VERSION), with what they
// depend on before them. What is built in, or what this kernel does not have, is left out.
// kInvalid if they are another kernel's than `version` ("" for any).
Result<std::vector<KernelModule>> guest_modules(const std::string& directory,
                                                const std::string& version);

}  // namespace volt::tools
