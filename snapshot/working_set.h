// The sums over a guest's working set that a manifest keeps, computed by the host from what is
// stored: what a scan by any clone must answer.
#pragma once

#include <cstdint>
#include <span>

#include "formats/manifest.h"
#include "snapshot/opened.h"
#include "vmm/guest_memory.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

// Whether a unit with a byte of the working set is among these, which are guest-physical addresses.
Result<bool> overlaps_working_set(const vmm::GuestMemory& memory, const formats::v1::Guest& guest,
                                  std::span<const std::uint64_t> units, std::uint64_t unit_bytes);

// Fills in both sums from the raw memory in `file`, all of which is there.
Result<> sum_working_set(const vmm::GuestMemory& memory, const Fd& file, formats::v1::Guest& guest);

// The same where only the units of the clone that differ from its parent's are in `file`. Reading
// the rest would cost what a difference saves: the sum over all is 0, "not computed", and only that
// over the first page is brought up to date.
Result<> sum_changed_working_set(const vmm::GuestMemory& memory, const Fd& file,
                                 std::span<const std::uint64_t> changed, std::uint64_t unit_bytes,
                                 formats::v1::Guest& guest);

// The sum over all of it, from units that are checked as they are read.
Result<std::uint64_t> working_set_sum(const OpenedSnapshot& snapshot);

}  // namespace volt::snapshot
