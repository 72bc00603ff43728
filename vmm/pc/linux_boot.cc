#include "vmm/pc/linux_boot.h"

#include "vmm/laps.h"
#include "vmm/pc/acpi.h"
#include "vmm/pc/kernel_boot.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

constexpr std::size_t kLinesTold = 20;

}  // namespace

std::string command_line_of(const LinuxBootConfig& config) {
  std::string line = "console=ttyS0 8250.nr_uarts=1 panic=-1 reboot=a";
  if (!config.show_console) line += " quiet";
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
  const KernelInput input = {.initrd = config.initrd, .command_line = machine.command_line};
  const KernelBoot boot = VOLT_TRY(load_kernel(kernel, input, memory));
  const AcpiMachine acpi = {.cpus = config.cpus, .keyboard = config.probe_keyboard};
  VOLT_TRY(memory.write(kAcpi, acpi_tables(acpi)));
  machine.phases.load_us = laps.lap_us();

  machine.console = VOLT_TRY(Console::create(config.show_console));
  Console* const console = machine.console.get();
  machine.pc = VOLT_TRY(Pc::build(kvm, std::move(memory),
                                  {.cpus = config.cpus,
                                   .cpu_template = config.cpu_template,
                                   .console = [console](std::byte each) { console->put(each); }}));
  machine.phases.pc = machine.pc->phases();
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
