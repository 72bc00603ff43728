#include "vmm/ram_slots.h"

#include <algorithm>

namespace volt::vmm {
namespace {

// Where less than this would be saved, the second slot later costs more than it saves now.
constexpr std::uint64_t kWorthDeferring = 32 << 20;

// How much of a region, from its start, must have a slot at once: all that holds data.
std::uint64_t needed_bytes(const GuestMemory::Region& region) {
  std::uint64_t end = 0;
  for (const GuestMemory::Range& range : region.backed) {
    end = std::max(end, range.offset + range.bytes);
  }
  return region.host.size() - end < kWorthDeferring ? region.host.size() : end;
}

}  // namespace

Result<> RamSlots::attach_part(Vm& vm, const Part& part) {
  VOLT_TRY(vm.set_user_memory_region(next_slot_++, part.guest_base, part.host));
  attached_.push_back(part);
  return {};
}

Result<> RamSlots::attach(Vm& vm, GuestMemory memory, Attach how) {
  memory_ = std::move(memory);
  for (const GuestMemory::Region& region : memory_.regions()) {
    const std::span<std::byte> host = region.host.bytes();
    const std::uint64_t now = how == Attach::kAll ? host.size() : needed_bytes(region);
    if (now > 0) VOLT_TRY(attach_part(vm, {region.guest_base, host.first(now)}));
    if (now < host.size()) rest_.push_back({region.guest_base + now, host.subspan(now)});
  }
  if (rest_.empty()) return {};
  return vm.enable_cap(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
}

Result<> RamSlots::attach_rest(Vm& vm) {
  for (const Part& part : rest_) VOLT_TRY(attach_part(vm, part));
  rest_.clear();
  return {};
}

Result<bool> RamSlots::resolve(Vm& vm, kvm_run& run) {
  if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR &&
      run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && !rest_.empty()) {
    VOLT_TRY(attach_rest(vm));
    return true;
  }
  if (run.exit_reason != KVM_EXIT_MMIO || run.mmio.len > sizeof run.mmio.data) return false;
  const std::uint64_t address = run.mmio.phys_addr;
  if (!memory_.at(address, run.mmio.len)) return false;
  VOLT_TRY(attach_rest(vm));
  const auto data = std::as_writable_bytes(std::span(run.mmio.data)).first(run.mmio.len);
  VOLT_TRY(run.mmio.is_write != 0 ? memory_.write(address, data) : memory_.read(address, data));
  return true;
}

}  // namespace volt::vmm
