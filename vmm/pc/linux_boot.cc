#include "vmm/pc/linux_boot.h"

#include <cstdio>

#include "vmm/initramfs.h"
#include "vmm/laps.h"
#include "vmm/pc/acpi.h"
#include "vmm/pc/kernel_boot.h"
#include "vmm/pc/layout.h"
#include "vmm/virtio/entropy.h"
#include "vmm/virtio/vsock.h"

namespace volt::pc {
namespace {

constexpr std::size_t kLinesTold = 20;
constexpr std::uint32_t kLinuxDevices = 2;

// The user's, and behind it what the agent needs.
Result<std::vector<std::byte>> initrd_of(const LinuxBootConfig& config) {
  std::vector<std::byte> initrd(config.initrd.begin(), config.initrd.end());
  if (!config.agent) return initrd;
  using Kind = vmm::InitramfsEntry::Kind;
  std::vector<vmm::InitramfsEntry> entries = {
      {.path = "volt", .kind = Kind::kDirectory},
      {.path = "volt/init", .bytes = config.agent->program},
      {.path = "volt/modules", .kind = Kind::kDirectory},
      // What PID 1 has for streams until it has mounted a /dev of its own.
      {.path = "dev", .kind = Kind::kDirectory},
      {.path = "dev/console",
       .kind = Kind::kCharDevice,
       .permissions = 0600,
       .major = 5,
       .minor = 1}};
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

// In the order of the ACPI tables and of snapshots.
Result<> add_devices(LinuxMachine& machine, const LinuxBootConfig& config) {
  const virtio::VsockOptions options = config.agent ? config.agent->vsock : virtio::VsockOptions{};
  std::unique_ptr<virtio::Vsock> vsock = VOLT_TRY(virtio::Vsock::create(options));
  virtio::Vsock& streams = *vsock;
  VOLT_TRY(machine.pc->add_virtio(std::move(vsock)));
  if (config.agent) {
    machine.agent = VOLT_TRY(AgentLink::create(streams, machine.pc->ended().get()));
  }
  return machine.pc->add_virtio(std::make_unique<virtio::Entropy>());
}

}  // namespace

std::string command_line_of(const LinuxBootConfig& config) {
  std::string line = "console=ttyS0 8250.nr_uarts=1 panic=-1 reboot=a";
  if (!config.show_console) line += " quiet";
  if (config.agent) line += " rdinit=/volt/init";
  if (!config.command_line.empty()) line += " " + config.command_line;
  return line;
}

Result<LinuxMachine> prepare_linux(const vmm::Kvm& kvm, const LinuxBootConfig& config) {
  const std::vector<vmm::RegionLayout> layout = VOLT_TRY(vmm::ram_layout(config.ram_bytes));
  LinuxMachine machine;
  vmm::Laps laps;
  const KernelImage kernel = VOLT_TRY_IN("kernel", KernelImage::parse(config.kernel, config.entry));
  machine.kernel_version = kernel.version();
  machine.phases.kernel_us = laps.lap_us();

  machine.command_line = command_line_of(config);
  vmm::GuestMemory memory = VOLT_TRY(vmm::GuestMemory::anonymous(layout));
  const std::vector<std::byte> initrd = VOLT_TRY(initrd_of(config));
  const KernelInput input = {.initrd = initrd, .command_line = machine.command_line};
  const KernelBoot boot = VOLT_TRY(load_kernel(kernel, input, memory));
  const AcpiMachine acpi = {
      .cpus = config.cpus, .virtio_devices = kLinuxDevices, .keyboard = config.probe_keyboard};
  VOLT_TRY(memory.write(kAcpi, acpi_tables(acpi)));
  machine.phases.load_us = laps.lap_us();

  machine.console = VOLT_TRY(Console::create(config.show_console));
  Console* const console = machine.console.get();
  machine.pc = VOLT_TRY(Pc::build(kvm, std::move(memory),
                                  {.cpus = config.cpus,
                                   .cpu_template = config.cpu_template,
                                   .console = [console](std::byte each) { console->put(each); }}));
  machine.phases.pc = machine.pc->phases();
  VOLT_TRY(add_devices(machine, config));
  VOLT_TRY(machine.pc->start(boot.regs, boot.sregs));
  return machine;
}

Result<> start_linux(LinuxMachine& machine) {
  machine.started_ns = vmm::monotonic_clock_ns();
  return machine.pc->run();
}

Error failed_boot(LinuxMachine& machine, Error what) {
  if (const Result<> paused = machine.pc->pause(); !paused) return paused.error();
  const std::string panic = machine.console->panic();
  if (!panic.empty()) what.context += ": " + panic;
  if (what.code == Code::kDeadline) what.context += "; " + machine.pc->describe_cpus();
  what.context += "; the console's last lines:";
  for (const std::string& line : machine.console->last_lines(kLinesTold)) {
    what.context += "\n  " + line;
  }
  return what;
}

}  // namespace volt::pc
