#include "vmm/pc/linux_boot.h"

#include <sys/random.h>

#include <cstdio>

#include "vmm/initramfs.h"
#include "vmm/laps.h"
#include "vmm/pc/acpi.h"
#include "vmm/pc/kernel_boot.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

// The user's, and behind it what the agent needs.
Result<std::vector<std::byte>> initrd_of(const LinuxBootConfig& config) {
  std::vector<std::byte> initrd(config.initrd.begin(), config.initrd.end());
  if (!config.agent) return initrd;
  using Kind = vmm::InitramfsEntry::Kind;
  std::vector<vmm::InitramfsEntry> entries = vmm::console_entries();
  entries.push_back({.path = "volt", .kind = Kind::kDirectory});
  entries.push_back({.path = "volt/init", .bytes = config.agent->program});
  entries.push_back({.path = "volt/modules", .kind = Kind::kDirectory});
  for (std::size_t i = 0; i < config.agent->modules.size(); ++i) {
    char name[48];
    std::snprintf(name, sizeof name, "volt/modules/%03zu.ko", i);
    entries.push_back({.path = name, .permissions = 0644, .bytes = config.agent->modules[i]});
  }
  const std::vector<std::byte> own = VOLT_TRY(vmm::encode_initramfs(entries));
  constexpr std::byte kZeros[4] = {};
  initrd.insert(initrd.end(), kZeros, kZeros + vmm::padding_before_initramfs(initrd.size()));
  initrd.insert(initrd.end(), own.begin(), own.end());
  return initrd;
}

}  // namespace

std::string command_line_of(const LinuxBootConfig& config) {
  std::string line = "console=ttyS0 8250.nr_uarts=1 panic=-1 reboot=a";
  if (!config.machine.show_console) line += " quiet";
  if (config.agent) line += " rdinit=/volt/init";
  if (!config.command_line.empty()) line += " " + config.command_line;
  return line;
}

Result<LinuxBoot> prepare_linux(const vmm::Kvm& kvm, const LinuxBootConfig& config) {
  const std::vector<vmm::RegionLayout> layout = VOLT_TRY(vmm::ram_layout(config.ram_bytes));
  LinuxBoot boot;
  vmm::Laps laps;
  const KernelImage kernel = VOLT_TRY_IN("kernel", KernelImage::parse(config.kernel, config.entry));
  boot.kernel_version = kernel.version();
  boot.phases.kernel_us = laps.lap_us();

  boot.command_line = command_line_of(config);
  boot.cpu_template = config.machine.cpu_template;
  vmm::GuestMemory memory = VOLT_TRY(vmm::GuestMemory::anonymous(layout));
  const std::vector<std::byte> initrd = VOLT_TRY(initrd_of(config));
  const KernelInput input = {.initrd = initrd, .command_line = boot.command_line};
  const KernelBoot begin = VOLT_TRY(load_kernel(kernel, input, memory));
  const AcpiMachine acpi = {.cpus = config.machine.cpus,
                            .virtio_devices = kLinuxDevices,
                            .keyboard = config.probe_keyboard};
  VOLT_TRY(memory.write(kAcpi, acpi_tables(acpi)));
  if (::getrandom(boot.generation.data(), boot.generation.size(), 0) !=
      static_cast<ssize_t>(boot.generation.size())) {
    return sys_error("getrandom");
  }
  VOLT_TRY(memory.write(kGeneration, boot.generation));
  boot.phases.load_us = laps.lap_us();

  boot.machine = VOLT_TRY(LinuxMachine::build(kvm, std::move(memory), config.machine));
  boot.phases.pc = boot.machine->pc().phases();
  VOLT_TRY(boot.machine->pc().start(begin.regs, begin.sregs));
  return boot;
}

LinuxBootPhases LinuxBoot::phases_by_now() const {
  LinuxBootPhases now = phases;
  const std::uint64_t first_exit_ns = machine->pc().first_exit_ns();
  if (first_exit_ns != 0) now.first_exit_us = (first_exit_ns - started_ns) / 1000;
  return now;
}

Result<> start_linux(LinuxBoot& boot) {
  boot.started_ns = vmm::monotonic_clock_ns();
  return boot.machine->pc().run();
}

}  // namespace volt::pc
