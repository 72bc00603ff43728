// This host in a few words, for reports: figures mean little without them. And what its KVM does
// with guest code.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "vmm/probe.h"

namespace volt::tools {

nlohmann::ordered_json host_facts_json();

// Where a Linux guest was not ready in time, part of why.
inline constexpr char kKernelsEmulated[] =
    "KVM here emulates a kernel's instructions one by one, which is far too slow for Linux";
// With the built-in guest; takes milliseconds.
Result<vmm::Probe> probe_kvm(const vmm::Kvm& kvm);
// What a Linux guest failed with, and that if it was late and this host is to blame.
Error with_hosts_part(const vmm::Kvm& kvm, Error what);

}  // namespace volt::tools
