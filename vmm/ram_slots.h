// Guest RAM as KVM sees it: one memory slot for each region, or only for its part that holds data.
//
// KVM keeps a few words for every page of a slot, so registering 8 GiB takes 2-3 ms here, three
// times the rest of a restore. A clone rarely leaves the part of its memory that holds data; so
// only that part gets a slot, and the rest is attached when the guest first reaches for it. What
// happens then:
//   - KVM finds no memory at the address, decodes the instruction and hands its access out as MMIO.
//     We attach the rest and carry the access out on the same memory; KVM finishes the instruction.
//     An access that KVM splits in two comes out twice, the second time after the rest is attached.
//   - KVM cannot decode the instruction (an SSE store, say). The instruction has had no effect, RIP
//     still points at it: we attach the rest and run it again. KVM_CAP_EXIT_ON_EMULATION_FAILURE
//     makes KVM tell us, where it would raise an exception in the guest.
// Only for guests of one CPU, as carrying out an access here is not atomic against another CPU; and
// for guests whose stacks and tables lie in their data, as an exception that is delivered through
// memory without a slot gives no exit that could be mended.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/guest_memory.h"
#include "vmm/kvm.h"

namespace volt::vmm {

enum class Attach { kAll, kDataFirst };

class RamSlots {
 public:
  // `first_slot` and up are ours.
  explicit RamSlots(std::uint32_t first_slot) : next_slot_(first_slot) {}

  Result<> attach(Vm& vm, GuestMemory memory, Attach how);
  // Whether the exit in `run` was only the guest reaching RAM that had no slot. Then the access is
  // carried out as far as KVM left it to us, and the guest may go on.
  Result<bool> resolve(Vm& vm, kvm_run& run);

  struct Part {
    std::uint64_t guest_base;
    std::span<std::byte> host;
  };
  const GuestMemory& memory() const { return memory_; }
  const std::vector<Part>& attached() const { return attached_; }
  bool all_attached() const { return rest_.empty(); }

 private:
  Result<> attach_part(Vm& vm, const Part& part);
  Result<> attach_rest(Vm& vm);

  GuestMemory memory_{{}};
  std::vector<Part> attached_;
  std::vector<Part> rest_;
  std::uint32_t next_slot_;
};

}  // namespace volt::vmm
