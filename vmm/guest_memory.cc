#include "vmm/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <iterator>

#include "vmm/guest_abi.h"
#include "vmm/os/fault_guard.h"

namespace volt::vmm {
namespace {

// Of regions, in the guest and in this process: KVM's slots and the kernel's page tables have this
// for a large page.
constexpr std::uint64_t kGranule = 2 << 20;
// Each makes two mappings more at most, and Linux lets a process have 65,530.
constexpr std::size_t kMaxHoles = 16384;

}  // namespace

Result<std::vector<RegionLayout>> ram_layout(std::uint64_t ram_bytes) {
  if (ram_bytes % kGranule != 0 || ram_bytes < kGranule) {
    return fail(Code::kInvalid, "memory size " + std::to_string(ram_bytes) +
                                    " is not a positive multiple of 2 MiB");
  }
  if (ram_bytes > guest_abi::kMaxRamBytes) {
    return fail(Code::kInvalid, "memory size " + std::to_string(ram_bytes) +
                                    " is more than the 16 GiB that a guest can have");
  }
  const std::uint64_t low = std::min(ram_bytes, guest_abi::kLowRamEnd);
  std::vector<RegionLayout> layout = {{.guest_base = 0, .bytes = low}};
  if (ram_bytes > low) {
    layout.push_back({.guest_base = guest_abi::kHighRamBase, .bytes = ram_bytes - low});
  }
  return layout;
}

Result<Mapping> GuestMemory::reserve(std::uint64_t bytes) {
  return Mapping::aligned(bytes, kGranule, PROT_READ | PROT_WRITE, MAP_NORESERVE, "guest memory");
}

Result<> GuestMemory::settle(std::span<std::byte> region) {
  if (::madvise(region.data(), region.size(), MADV_DONTFORK) != 0) {
    return sys_error("madvise DONTFORK");
  }
  // EINVAL: a kernel without huge pages, where there is nothing to refuse.
  if (::madvise(region.data(), region.size(), MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return sys_error("madvise NOHUGEPAGE");
  }
  return {};
}

Result<GuestMemory> GuestMemory::anonymous(std::span<const RegionLayout> layout) {
  std::vector<Region> regions;
  for (const RegionLayout& region : layout) {
    Mapping host = VOLT_TRY(reserve(region.bytes));
    VOLT_TRY(settle(host.bytes()));
    regions.push_back({region.guest_base, std::move(host), {}});
  }
  return GuestMemory(std::move(regions));
}

std::uint64_t GuestMemory::total_bytes() const {
  std::uint64_t total = 0;
  for (const Region& region : regions_) total += region.host.size();
  return total;
}

Result<std::span<std::byte>> GuestMemory::at(std::uint64_t address, std::uint64_t bytes) const {
  for (const Region& region : regions_) {
    if (address < region.guest_base) break;
    const std::uint64_t offset = address - region.guest_base;
    if (offset >= region.host.size()) continue;
    if (bytes > region.host.size() - offset) break;
    return region.host.bytes().subspan(offset, bytes);
  }
  char text[96];
  std::snprintf(text, sizeof text, "guest memory: [0x%llx, +%llu) is not RAM",
                static_cast<unsigned long long>(address), static_cast<unsigned long long>(bytes));
  return fail(Code::kInvalid, text);
}

Result<> GuestMemory::read(std::uint64_t address, std::span<std::byte> into) const {
  return guarded_copy(into, VOLT_TRY(at(address, into.size())));
}

Result<> GuestMemory::write(std::uint64_t address, std::span<const std::byte> from) const {
  return guarded_copy(VOLT_TRY(at(address, from.size())), from);
}

bool GuestMemory::remember_hole(std::uint64_t begin, std::uint64_t end) const {
  // Where nothing of a file is shown a hole is like what is around it.
  if (std::ranges::all_of(regions_, [](const auto& each) { return each.backed.empty(); })) {
    return true;
  }
  const std::lock_guard lock(holes_->mutex);
  auto& ranges = holes_->ranges;
  auto at = ranges.upper_bound(begin);
  if (at != ranges.begin() && std::prev(at)->second >= begin) --at;
  const bool touches = at != ranges.end() && at->first <= end;
  if (!touches && ranges.size() == kMaxHoles) return false;
  while (at != ranges.end() && at->first <= end) {
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = ranges.erase(at);
  }
  ranges.emplace(begin, end);
  return true;
}

Result<> GuestMemory::clear(std::span<std::byte> pages) const {
  static constexpr std::array<std::byte, guest_abi::kPageBytes> kZeros = {};
  while (!pages.empty()) {
    const auto part = pages.first(std::min(pages.size(), kZeros.size()));
    VOLT_TRY(guarded_copy(part, std::span(kZeros).first(part.size())));
    pages = pages.subspan(part.size());
  }
  return {};
}

// Not by MADV_DONTNEED, after which a mapped file or image shows through again.
Result<bool> GuestMemory::discard(std::uint64_t address, std::uint64_t bytes) const {
  const std::span<std::byte> pages = VOLT_TRY(at(address, bytes));
  constexpr int kHow = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (!remember_hole(address, address + bytes) ||
      ::mmap(pages.data(), pages.size(), PROT_READ | PROT_WRITE, kHow, -1, 0) == MAP_FAILED) {
    VOLT_TRY(clear(pages));
    return false;
  }
  VOLT_TRY(settle(pages));
  return true;
}

}  // namespace volt::vmm
