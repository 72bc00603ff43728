// A snapshot from a sandbox, which stays as it was and may go on running.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "formats/digest.h"
#include "snapshot/clone_pages.h"
#include "snapshot/sandbox.h"
#include "snapshot/storage.h"
#include "snapshot/store.h"

namespace volt::snapshot {

enum class CaptureMode {
  kFull,  // depends on no other snapshot's files
  kDiff,  // units that are the parent's stay where the parent has them (difference.h)
};
const char* capture_mode_name(CaptureMode mode);
Result<CaptureMode> parse_capture_mode(std::string_view name);

struct CaptureOptions {
  std::map<std::string, std::string> labels;
  Store::IfTaken if_taken = Store::IfTaken::kRefuse;
  CaptureMode mode = CaptureMode::kFull;
  Storage storage = Storage::kRaw;  // of what it writes
  PackOptions pack;
  PageFinder page_finder = PageFinder::kAuto;  // for a clone's own pages
  // What memory is summed and fetched by, a power of two from 4 KiB to 2 MiB; without it the size
  // of the snapshot that the sandbox came from, or 64 KiB.
  std::optional<std::uint64_t> unit_bytes;
};

struct Captured {
  formats::Sha256 digest = {};            // of the snapshot
  formats::Sha256 memory_digest = {};     // of its memory alone
  CaptureMode mode = CaptureMode::kFull;  // as it came out
  std::string full_because;               // why, if a difference was asked for
  std::uint64_t stored_bytes = 0;         // what its memory takes on disk, besides what is shared
  std::uint64_t data_bytes = 0;           // what of its memory is not zero
  std::uint64_t apparent_bytes = 0;       // what its memory is
  UnitCounts units;                       // how its memory compares with the parent's
  std::uint64_t state_ns = 0;             // bringing the CPUs to rest and reading them
  std::uint64_t memory_ns = 0;            // finding, summing and writing what is not zero
  std::uint64_t publish_ns = 0;           // making it durable and visible
};

// The sandbox must be between calls. Of a clone that shows its parent's pages (loaders map and
// uffd) only what it wrote is read through its memory; the rest is read from the parent's files and
// checked there, so no page is fetched into the clone, and damage in the parent ends the capture
// instead of getting valid sums. (Under map the guest may have seen damage meanwhile: nobody checks
// what it reads, and if the files are whole again by now nobody will know.) All memory of any other
// sandbox is read and summed as it is.
//
// A difference reads and writes still less: of the parent only the units in which the clone has
// pages of its own, to compare with. A copy (loader copy) is compared whole. It has the parent's
// unit size, or is kInvalid, as is one of a guest that was booted. Where a parent's files cannot be
// linked, or nobody knows what a clone's memory was filled with, the capture is full and says so.
//
// Whatever goes wrong, nothing is left behind and the sandbox may go on.
Result<Captured> capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                         const Reference& reference, const CaptureOptions& options);

}  // namespace volt::snapshot
