// What a host's KVM does with guest code: found out by running some, not by reading CPU flags.
#pragma once

#include "vmm/guest_image.h"
#include "vmm/kvm.h"

namespace volt::vmm {

enum class HostKind {
  kNative,     // guest code runs on the CPU in every ring: an ordinary VMX or SVM host
  kRing3Only,  // ring 3 runs on the CPU, ring 0 is emulated: micro guests at full speed, kernels
               // not
};

struct Probe {
  HostKind kind;
  double ring3_ns;  // for one turn of a loop of two instructions
  double ring0_ns;
};

// Boots `image`'s echo workload for ring 3, and a few bytes of code of its own for ring 0.
Result<Probe> probe_host(const Kvm& kvm, const GuestImage& image);

}  // namespace volt::vmm
