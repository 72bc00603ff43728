// One snapshot to a stream and from one: formats/archive.h, front to back, through a file or a
// pipe.
#pragma once

#include <cstdint>

#include "formats/digest.h"
#include "snapshot/storage.h"

namespace volt::snapshot {

struct Archived {
  formats::Sha256 digest = {};   // of the snapshot
  formats::Sha256 archive = {};  // of the stream, up to its last section
  std::uint64_t units = 0;
  std::uint64_t bytes = 0;  // of the stream
};

// Units that are stored raw are compressed on the way. Everything is checked before it is written.
Result<Archived> save(const Store& store, const Reference& reference, const Fd& to,
                      const PackOptions& options);

struct LoadOptions {
  Storage storage = Storage::kRaw;
  Store::IfTaken if_taken = Store::IfTaken::kRefuse;
  PackOptions pack;
  std::optional<formats::Sha256> archive;  // what its SHA-256 must be
};
// Everything is checked before the snapshot exists: sums, that the files belong together, that no
// unit is missing or too many. What fails leaves nothing behind.
Result<Archived> load(const Store& store, const Reference& reference, const Fd& from,
                      const LoadOptions& options);

}  // namespace volt::snapshot
