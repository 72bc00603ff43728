#include "vmm/pc/pc.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "vmm/exit.h"
#include "vmm/laps.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

// One KVM_RUN finishes one access. KVM splits the widest in two, and comes back from a repeated one
// after 1,024 at most.
constexpr int kMaxFinishRuns = 2048;
// Memory is write-back wherever nothing else is said, and the type registers are on: without that
// Linux takes PAT for broken.
constexpr kvm_msr_entry kMemoryTypes = {.index = 0x2FF, .data = 0x806};

std::byte* io_data(kvm_run& page) {
  return reinterpret_cast<std::byte*>(&page) + page.io.data_offset;
}

void store_immediate_exit(kvm_run& page, std::uint8_t value) {
  __atomic_store_n(&page.immediate_exit, value, __ATOMIC_SEQ_CST);
}

}  // namespace

Result<std::unique_ptr<Pc>> Pc::build(const vmm::Kvm& kvm, vmm::GuestMemory memory,
                                      PcConfig config) {
  if (config.cpus == 0 || config.cpus > kMaxCpus) return fail(Code::kInvalid, "1 to 16 CPUs");
  VOLT_TRY(vmm::listen_for_nudges());
  vmm::Laps laps;
  Fd ended(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended.valid()) return sys_error("eventfd");
  vmm::InterruptLine serial_line = VOLT_TRY(vmm::InterruptLine::create());
  vmm::InterruptLine event_line = VOLT_TRY(vmm::InterruptLine::create());
  vmm::Vm vm = VOLT_TRY(kvm.create_vm());
  std::unique_ptr<Pc> pc(new Pc(std::move(vm), std::move(serial_line), std::move(event_line),
                                std::move(ended), std::move(config)));
  pc->phases_.vm_us = laps.lap_us();
  VOLT_TRY(pc->attach(std::move(memory)));
  pc->phases_.memory_us = laps.lap_us();
  VOLT_TRY(pc->connect());
  pc->phases_.devices_us = laps.lap_us();
  VOLT_TRY(pc->add_cpus(kvm));
  return pc;
}

Pc::Pc(vmm::Vm vm, vmm::InterruptLine serial_line, vmm::InterruptLine event_line, Fd ended,
       PcConfig config)
    : config_(std::move(config)),
      ended_(std::move(ended)),
      serial_(std::move(serial_line), config_.console),
      power_(std::move(event_line), [this] { end(End::kPowerOff); }),
      keyboard_([this] { end(End::kReset); }),
      vm_(std::move(vm)) {}

Result<> Pc::attach(vmm::GuestMemory memory) {
  VOLT_TRY(vm_.set_tss_addr(kTss));
  VOLT_TRY(vm_.set_identity_map_addr(kIdentityMap));
  return ram_.attach(vm_, std::move(memory), vmm::Attach::kAll);
}

// Interrupts go to the I/O APIC alone: a kernel on this machine never sets the old controllers up.
Result<> Pc::connect() {
  VOLT_TRY(vm_.create_irqchip());
  kvm_irq_routing_entry routes[kIoApicPins] = {};
  for (std::uint32_t pin = 0; pin < kIoApicPins; ++pin) {
    routes[pin].gsi = pin;
    routes[pin].type = KVM_IRQ_ROUTING_IRQCHIP;
    routes[pin].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    routes[pin].u.irqchip.pin = pin;
  }
  VOLT_TRY(vm_.set_gsi_routing(routes));
  VOLT_TRY(vm_.irqfd(kSerialInterrupt, serial_.line().event()));
  VOLT_TRY(vm_.irqfd(kEventInterrupt, power_.line().event()));
  VOLT_TRY(ports_.add(kSerialPort, Serial::kPorts, serial_));
  VOLT_TRY(ports_.add(kKeyboardPort, Keyboard::kPorts, keyboard_));
  return ports_.add(kPowerPort, kPowerPorts, power_);
}

Result<> Pc::add_virtio(std::unique_ptr<virtio::Backend> backend) {
  const auto number = static_cast<std::uint32_t>(virtio_.size());
  if (number == kMaxVirtio) return fail(Code::kInvalid, "more virtio devices than there is room");
  vmm::Laps laps;
  vmm::InterruptLine line = VOLT_TRY(vmm::InterruptLine::create());
  virtio_.push_back(
      VOLT_TRY(virtio::Mmio::create(std::move(backend), memory(), std::move(line),
                                    [this](const Error& error) { end(std::unexpected(error)); })));
  virtio::Mmio& device = *virtio_.back();
  VOLT_TRY(add_device(kVirtioBase + number * kVirtioBytes, kVirtioBytes, device,
                      kFirstVirtioInterrupt + number, device.interrupt_line()));
  phases_.devices_us += laps.lap_us();
  return {};
}

Result<> Pc::add_device(std::uint64_t base, std::uint64_t bytes, vmm::Device& device,
                        std::uint32_t interrupt, const vmm::InterruptLine& line) {
  VOLT_TRY(addresses_.add(base, bytes, device));
  return vm_.irqfd(interrupt, line.event());
}

Result<> Pc::add_cpus(const vmm::Kvm& kvm) {
  vmm::Laps laps;
  const std::vector<kvm_cpuid_entry2> supported = VOLT_TRY(kvm.get_supported_cpuid());
  phases_.cpuid_us = laps.lap_us();
  for (std::uint32_t id = 0; id < config_.cpus; ++id) {
    vmm::Vcpu vcpu = VOLT_TRY(vm_.create_vcpu(id));
    VOLT_TRY(vcpu.set_cpuid2(cpuid_of(supported, config_.cpu_template, id, config_.cpus)));
    const std::size_t set = VOLT_TRY(vcpu.set_msrs(std::span(&kMemoryTypes, 1)));
    if (set != 1) return fail(Code::kHostUnable, "KVM refuses MSR 0x2ff (memory types)");
    cpus_.push_back(std::make_unique<Cpu>(std::move(vcpu)));
  }
  phases_.cpus_us = laps.lap_us();
  return {};
}

Pc::~Pc() {
  // A device that meets a lost page now would end a machine of which half is gone.
  for (const auto& device : virtio_) device->pause();
  {
    const std::lock_guard lock(mutex_);
    wish_ = Wish::kQuit;
    wake_everybody();
  }
  for (const auto& cpu : cpus_) {
    if (cpu->thread.joinable()) cpu->thread.join();
  }
}

Result<> Pc::start(const kvm_regs& regs, const kvm_sregs& sregs) {
  // What the boot protocol says nothing about stays as KVM made it: the APIC's base, above all.
  kvm_sregs merged = sregs;
  const kvm_sregs fresh = VOLT_TRY(cpus_[0]->vcpu.get_sregs());
  merged.apic_base = fresh.apic_base;
  VOLT_TRY(cpus_[0]->vcpu.set_sregs(merged));
  return cpus_[0]->vcpu.set_regs(regs);
}

Result<> Pc::run() {
  if (outcome()) return fail(Code::kConflict, "the machine has ended");
  // Without our lock: a device that meets a lost page ends the machine.
  for (const auto& device : virtio_) device->resume();
  const std::lock_guard lock(mutex_);
  wish_ = Wish::kRun;
  for (const auto& cpu : cpus_) {
    if (!cpu->thread.joinable()) cpu->thread = std::thread([this, &cpu] { live(*cpu); });
  }
  changed_.notify_all();
  return {};
}

Result<> Pc::pause() {
  std::unique_lock lock(mutex_);
  wish_ = Wish::kPause;
  wake_everybody();
  changed_.wait(lock, [this] {
    return std::ranges::all_of(cpus_, [](const auto& cpu) { return cpu->resting; });
  });
  lock.unlock();
  for (const auto& device : virtio_) device->pause();
  return {};
}

// With mutex_ held.
void Pc::wake_everybody() {
  changed_.notify_all();
  for (const auto& cpu : cpus_) {
    if (cpu->thread.joinable()) vmm::nudge(cpu->thread.native_handle());
  }
}

std::optional<Result<Pc::End>> Pc::outcome() const {
  const std::lock_guard lock(mutex_);
  return outcome_;
}

// The first reason counts: what other CPUs run into while they are stopped is its consequence.
void Pc::end(Result<End> how) {
  const std::lock_guard lock(mutex_);
  if (outcome_) return;
  outcome_ = std::move(how);
  wake_everybody();
  ::eventfd_write(ended_.get(), 1);
}

void Pc::live(Cpu& cpu) {
  vmm::shield_from_stop_signals();
  const Result<vmm::Interruptible> armed =
      vmm::Interruptible::arm(cpu.vcpu.page(), vmm::Deadline{});
  if (!armed) return end(std::unexpected(armed.error()));
  while (rest(cpu)) {
    if (Result<> stepped = step(cpu); !stepped) end(std::unexpected(std::move(stepped).error()));
  }
}

bool Pc::rest(Cpu& cpu) {
  std::unique_lock lock(mutex_);
  const auto may_run = [this] { return wish_ == Wish::kRun && !outcome_; };
  if (may_run()) {
    cpu.resting = false;
    return true;
  }
  if (!cpu.resting) {
    lock.unlock();
    Result<> finished = finish_access(cpu);
    if (!finished) end(std::unexpected(std::move(finished).error()));
    lock.lock();
  }
  cpu.resting = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return wish_ == Wish::kQuit || may_run(); });
  cpu.resting = false;
  return wish_ != Wish::kQuit;
}

Result<> Pc::step(Cpu& cpu) {
  const Result<vmm::Vcpu::Ran> ran = cpu.vcpu.run();
  if (!ran) return std::unexpected(vmm::run_error(ran.error()));
  if (*ran == vmm::Vcpu::Ran::kExited) {
    if (first_exit_ns_ == 0) first_exit_ns_ = vmm::monotonic_clock_ns();
    return take_exit(cpu);
  }
  // Cleared before rest() looks at the wish: a nudge from here on sets it again.
  store_immediate_exit(cpu.vcpu.page(), 0);
  return {};
}

Result<> Pc::take_exit(Cpu& cpu) {
  kvm_run& page = cpu.vcpu.page();
  if (page.exit_reason == KVM_EXIT_IO) {
    for (std::uint32_t i = 0; i < page.io.count; ++i) {
      const std::span data(io_data(page) + i * page.io.size, page.io.size);
      if (page.io.direction == KVM_EXIT_IO_OUT) {
        ports_.write(page.io.port, data);
      } else {
        ports_.read(page.io.port, data);
      }
    }
    return {};
  }
  if (page.exit_reason == KVM_EXIT_MMIO) {
    const std::span data = std::as_writable_bytes(std::span(page.mmio.data)).first(page.mmio.len);
    if (page.mmio.is_write != 0) {
      addresses_.write(page.mmio.phys_addr, data);
    } else {
      addresses_.read(page.mmio.phys_addr, data);
    }
    return {};
  }
  return crashed(cpu);
}

Result<> Pc::finish_access(Cpu& cpu) {
  kvm_run& page = cpu.vcpu.page();
  for (int runs = 0; runs < kMaxFinishRuns; ++runs) {
    store_immediate_exit(page, 1);
    const Result<vmm::Vcpu::Ran> ran = cpu.vcpu.run();
    store_immediate_exit(page, 0);
    if (!ran) return std::unexpected(vmm::run_error(ran.error()));
    if (*ran == vmm::Vcpu::Ran::kInterrupted) return {};
    VOLT_TRY(take_exit(cpu));
  }
  return fail(Code::kBusy, "a CPU does not come to rest: " + vmm::describe_exit(page));
}

std::string Pc::describe_cpus() const {
  std::string all;
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    all += (i == 0 ? "CPU " : "; CPU ") + std::to_string(i) + ": ";
    const Result<kvm_regs> regs = cpus_[i]->vcpu.get_regs();
    all += regs ? vmm::describe_registers(*regs) : regs.error().context;
  }
  return all;
}

std::unexpected<Error> Pc::crashed(const Cpu& cpu) const {
  std::string how = "the guest crashed: " + vmm::describe_exit(cpu.vcpu.page());
  if (const Result<kvm_regs> regs = cpu.vcpu.get_regs()) {
    how += "; " + vmm::describe_registers(*regs);
  }
  return fail(Code::kGuestCrashed, std::move(how));
}

}  // namespace volt::pc
