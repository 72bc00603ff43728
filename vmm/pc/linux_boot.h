// A Linux guest from nothing to its first instruction: kernel, initial RAM disk and tables in
// memory, and a machine around them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/pc/kernel_image.h"
#include "vmm/pc/linux_machine.h"

namespace volt::pc {

// Volt's own program in the guest, behind the user's initial RAM disk: it comes first, loads the
// modules for its way out, and says when the guest is ready (vmm/agent_abi.h).
struct GuestAgent {
  std::span<const std::byte> program;
  std::vector<std::span<const std::byte>> modules;  // in the order in which they load
};

struct LinuxBootConfig {
  LinuxMachineConfig machine;
  std::uint64_t ram_bytes = 0;
  Entry entry = Entry::kLinux64;
  std::span<const std::byte> kernel;
  std::span<const std::byte> initrd;
  std::string command_line;  // after Volt's own words, so that it may overrule them
  std::optional<GuestAgent> agent;
  bool probe_keyboard = false;  // say that there is an i8042, which a kernel then looks for
};

// Microseconds that each part of a boot took.
struct LinuxBootPhases {
  std::uint64_t kernel_us = 0;  // read, checked, unpacked
  std::uint64_t load_us = 0;    // guest RAM; kernel, initrd and tables put into it
  PcPhases pc;
  std::uint64_t first_exit_us = 0;  // from the first KVM_RUN; 0 until there was one
  std::uint64_t userspace_us = 0;   // from the first KVM_RUN; 0 if nobody said that it is there
  std::uint64_t total_us() const {
    return kernel_us + load_us + pc.total_us() + std::max(first_exit_us, userspace_us);
  }
};

struct LinuxBoot {
  std::unique_ptr<LinuxMachine> machine;
  std::string kernel_version;
  std::string command_line;
  CpuTemplate cpu_template = CpuTemplate::kHost;
  std::array<std::byte, 16> generation = {};  // random; where its VMGenID is
  LinuxBootPhases phases;
  std::uint64_t started_ns = 0;
  std::uint32_t failed_services = 0;  // as its agent told

  // With the first exit, if there was one meanwhile: a CPU's thread sees it.
  LinuxBootPhases phases_by_now() const;
};

// The words Volt puts on every command line: the console; no probing for UARTs that are not there;
// a restart at once after a panic, which ends the machine; and how, since a kernel on a machine
// with reduced hardware would call EFI, even where there is none.
std::string command_line_of(const LinuxBootConfig& config);

// Its CPUs are at the kernel's entry and do not run yet.
Result<LinuxBoot> prepare_linux(const vmm::Kvm& kvm, const LinuxBootConfig& config);
Result<> start_linux(LinuxBoot& boot);

}  // namespace volt::pc
