// Guest memory into a sparse file and its index: finds what is not zero, sums it, writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/manifest.h"
#include "formats/memory_index.h"
#include "vmm/guest_memory.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

// A power of two from 4 KiB to 2 MiB, or kInvalid.
Result<> check_unit_bytes(std::uint64_t unit_bytes);

// All of it zero; `bytes` is not empty.
bool is_zero(std::span<const std::byte> bytes);

// Units of a region, counted from its start.
struct UnitRun {
  std::uint64_t first;
  std::uint64_t end;
};

// Collects which units some ranges of a region touch.
class UnitRuns {
 public:
  explicit UnitRuns(std::uint64_t unit_bytes) : unit_bytes_(unit_bytes) {}
  void add(std::uint64_t offset, std::uint64_t bytes);
  // Ascending, not overlapping.
  std::vector<UnitRun> take();

 private:
  std::uint64_t unit_bytes_;
  std::vector<UnitRun> runs_;
};

struct UnitSum {
  formats::Xxh128 sum;
  bool stored = false;  // elsewhere: its bytes were not given, and are not to be written
};

// Where the units of a guest's memory come from when it is written. Regions are asked for in order,
// and of each units() first.
class UnitSource {
 public:
  virtual ~UnitSource() = default;
  // Those that may hold something.
  virtual Result<std::vector<UnitRun>> units(const vmm::GuestMemory::Region& region) = 0;
  // Fills `into` with a unit of that region and gives its sum; none if it is zero.
  virtual Result<std::optional<UnitSum>> read(std::uint64_t unit, std::span<std::byte> into) = 0;
};

// Memory that is this process's own: all of it is read.
class OwnUnits final : public UnitSource {
 public:
  explicit OwnUnits(std::uint64_t unit_bytes) : unit_bytes_(unit_bytes) {}
  // Those with content behind them, and those in which this process has a page. The rest is
  // anonymous memory nobody has touched, and must not be read: reading would fill the page tables
  // of a mostly empty guest.
  Result<std::vector<UnitRun>> units(const vmm::GuestMemory::Region& region) override;
  Result<std::optional<UnitSum>> read(std::uint64_t unit, std::span<std::byte> into) override;

 private:
  std::uint64_t unit_bytes_;
  std::span<const std::byte> region_;
};

// Writes every unit of `memory` that is not zero to `file`, region after region, but for those that
// are stored elsewhere. Entries ascend by unit; `place` is the file offset, or would be. Regions
// that are not whole units are kInvalid.
Result<std::vector<formats::IndexEntry>> write_memory(const vmm::GuestMemory& memory,
                                                      UnitSource& source, std::uint64_t unit_bytes,
                                                      const Fd& file);

// Where write_memory() puts what is at a guest-physical address; kInvalid if that is not RAM.
Result<std::uint64_t> place_of(const vmm::GuestMemory& memory, std::uint64_t address);

// Regions, extents and sizes, as the manifest describes what write_memory() wrote.
formats::v1::Memory describe_memory(const vmm::GuestMemory& memory, std::uint64_t unit_bytes,
                                    std::span<const formats::IndexEntry> entries);

}  // namespace volt::snapshot
