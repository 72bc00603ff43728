// A snapshot from a sandbox, which stays as it was and may go on running.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "formats/digest.h"
#include "formats/memory_index.h"
#include "snapshot/sandbox.h"
#include "snapshot/store.h"

namespace volt::snapshot {

struct CaptureOptions {
  std::map<std::string, std::string> labels;
  Store::IfTaken if_taken = Store::IfTaken::kRefuse;
  // What memory is summed and faulted in by: a power of two from 4 KiB to 2 MiB.
  std::uint64_t unit_bytes = formats::kDefaultUnitBytes;
};

struct Captured {
  formats::Sha256 digest = {};         // of the snapshot
  formats::Sha256 memory_digest = {};  // of its memory alone
  std::uint64_t stored_bytes = 0;      // what its memory takes
  std::uint64_t apparent_bytes = 0;    // what its memory is
  std::uint64_t state_ns = 0;          // bringing the CPUs to rest and reading them
  std::uint64_t memory_ns = 0;         // finding, summing and writing what is not zero
  std::uint64_t publish_ns = 0;        // making it durable and visible
};

// The sandbox must be between calls. Sums are taken of what its memory holds now: restore a clone
// that is to be captured with Verify::kEverythingFirst, or damage it was mapped from gets valid
// sums. Whatever goes wrong, nothing is left behind and the sandbox may go on.
Result<Captured> capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                         const Reference& reference, const CaptureOptions& options);

}  // namespace volt::snapshot
