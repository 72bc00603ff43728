// CPU state between the kernel's structs and the stored message, field by field.
#pragma once

#include <vector>

#include "formats/machine_state.h"
#include "vmm/cpu_state.h"

namespace volt::snapshot {

formats::v1::Vcpu to_message(const vmm::CpuState& state);
// `message` has passed formats::check().
vmm::CpuState from_message(const formats::v1::Vcpu& message);

std::vector<kvm_cpuid_entry2> cpuid_from(const formats::v1::Vcpu& message);
kvm_sregs sregs_from(const formats::v1::SpecialRegisters& message);

}  // namespace volt::snapshot
