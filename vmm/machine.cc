#include "vmm/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "vmm/exit.h"

namespace volt::vmm {
namespace {

constexpr std::uint32_t kWindowSlot = 0;
constexpr std::uint32_t kFirstRamSlot = 1;
constexpr std::size_t kMaxCpus = 64;
// One KVM_RUN finishes one access; the widest that KVM splits takes two.
constexpr int kMaxQuiesceRuns = 8;

void store_immediate_exit(kvm_run& page, std::uint8_t value) {
  __atomic_store_n(&page.immediate_exit, value, __ATOMIC_SEQ_CST);
}

std::unexpected<Error> crashed(std::string how) {
  return fail(Code::kGuestCrashed, "the guest crashed: " + std::move(how));
}

std::optional<Doorbell::Kind> doorbell_of(std::uint16_t port) {
  using enum Doorbell::Kind;
  switch (port) {
    case guest_abi::kPortReady:
      return kReady;
    case guest_abi::kPortPark:
      return kPark;
    case guest_abi::kPortDone:
    case guest_abi::kPortKick:  // a KICK that nobody listens for
      return kDone;
    case guest_abi::kPortHostCall:
      return kHostCall;
    case guest_abi::kPortExit:
      return kExit;
    default:
      return std::nullopt;
  }
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::build(const Kvm& kvm, std::size_t cpus) {
  if (cpus == 0 || cpus > kMaxCpus) return fail(Code::kInvalid, "1 to 64 CPUs");
  Exchange exchange = VOLT_TRY(Exchange::create());
  Vm vm = VOLT_TRY(kvm.create_vm());
  VOLT_TRY(vm.set_user_memory_region(kWindowSlot, guest_abi::kWindowBase, exchange.memory()));
  std::vector<Vcpu> vcpus;
  for (std::uint32_t id = 0; id < cpus; ++id) vcpus.push_back(VOLT_TRY(vm.create_vcpu(id)));
  return std::unique_ptr<Machine>(
      new Machine(std::move(exchange), std::move(vm), std::move(vcpus)));
}

Machine::Machine(Exchange exchange, Vm vm, std::vector<Vcpu> vcpus)
    : ram_(kFirstRamSlot),
      exchange_(std::move(exchange)),
      vm_(std::move(vm)),
      vcpus_(std::move(vcpus)) {}

Result<> Machine::attach_memory(GuestMemory memory, Attach how) {
  // See ram_slots.h: an access carried out by the host is not atomic against another CPU.
  const Attach safe = vcpus_.size() == 1 ? how : Attach::kAll;
  return ram_.attach(vm_, std::move(memory), safe);
}

void Machine::start(const kvm_regs& regs, const kvm_sregs& sregs) {
  kvm_run& page = vcpus_[0].page();
  page.s.regs.regs = regs;
  page.s.regs.sregs = sregs;
  page.kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

Result<> Machine::load(std::span<const CpuState> cpus) {
  if (cpus.size() != vcpus_.size()) {
    return fail(Code::kInvalid, "state of " + std::to_string(cpus.size()) + " CPUs for a VM of " +
                                    std::to_string(vcpus_.size()));
  }
  for (std::size_t i = 0; i < cpus.size(); ++i) VOLT_TRY(load_state(vcpus_[i], cpus[i]));
  return {};
}

Result<Doorbell> Machine::run(Deadline deadline) {
  Vcpu& vcpu = vcpus_[0];
  kvm_run& page = vcpu.page();
  const Interruptible armed = VOLT_TRY(Interruptible::arm(page, deadline));
  VOLT_TRY(check_stop());  // a signal that came before it was armed for ended nothing
  for (;;) {
    const Result<Vcpu::Ran> ran = vcpu.run();
    if (!ran) return std::unexpected(run_error(ran.error()));
    if (*ran == Vcpu::Ran::kExited) {
      const bool reached_ram = VOLT_TRY(ram_.resolve(vm_, page));
      if (!reached_ram) return take_exit();
      continue;
    }
    // Cleared before the reasons are looked at: a signal from here on sets it again.
    store_immediate_exit(page, 0);
    VOLT_TRY(check_stop());
    if (deadline.passed()) return fail(Code::kDeadline, "the guest did not answer in time");
  }
}

Result<Doorbell> Machine::take_exit() {
  const kvm_run& page = vcpus_[0].page();
  const bool out = page.exit_reason == KVM_EXIT_IO && page.io.direction == KVM_EXIT_IO_OUT &&
                   page.io.size == 4 && page.io.count == 1;
  if (out) {
    std::uint32_t value;
    std::memcpy(&value, reinterpret_cast<const std::byte*>(&page) + page.io.data_offset, 4);
    if (page.io.port == guest_abi::kPortPanic) return panicked(value);
    if (const auto kind = doorbell_of(page.io.port)) return Doorbell{*kind, value};
  }
  std::string how = describe_exit(page);
  if (const Result<kvm_regs> regs = vcpus_[0].get_regs()) {
    how += "; " + describe_registers(*regs);
  }
  return crashed(std::move(how));
}

// The stub that rang has left the exception's frame on its stack; the guest wrote it, so it is read
// through the checked accessor and only ever printed.
std::unexpected<Error> Machine::panicked(std::uint32_t vector) const {
  const Result<kvm_regs> regs = vcpus_[0].get_regs();
  const Result<kvm_sregs> sregs = vcpus_[0].get_sregs();
  if (!regs || !sregs) return crashed("an exception, and its registers cannot be read");
  guest_abi::PanicFrame frame = {};
  const Result<> read = memory().read(regs->rsp, std::as_writable_bytes(std::span(&frame, 1)));
  if (!read) return crashed("an exception, and its stack is not memory");
  kvm_regs at_fault = *regs;
  at_fault.rip = frame.rip;
  at_fault.rsp = frame.rsp;
  at_fault.rflags = frame.rflags;
  at_fault.rax = frame.rax;
  at_fault.rdx = frame.rdx;
  char what[128];
  std::snprintf(what, sizeof what, "exception %u (%s), error code 0x%llx, cr2 0x%llx; ", vector,
                exception_name(vector), static_cast<unsigned long long>(frame.error), sregs->cr2);
  return crashed(what + describe_registers(at_fault));
}

Result<> Machine::quiesce() {
  for (Vcpu& vcpu : vcpus_) {
    int runs = 0;
    for (;;) {
      store_immediate_exit(vcpu.page(), 1);
      const Result<Vcpu::Ran> ran = vcpu.run();
      store_immediate_exit(vcpu.page(), 0);
      if (!ran) return std::unexpected(run_error(ran.error()));
      if (*ran == Vcpu::Ran::kInterrupted) break;
      // Whichever it was, the second half of an access is done by the next run.
      static_cast<void>(VOLT_TRY(ram_.resolve(vm_, vcpu.page())));
      if (++runs == kMaxQuiesceRuns) {
        return fail(Code::kBusy, "a CPU does not come to rest: " + describe_exit(vcpu.page()));
      }
    }
  }
  return {};
}

Result<std::vector<CpuState>> Machine::save(const StateSources& sources) const {
  std::vector<CpuState> states;
  for (const Vcpu& vcpu : vcpus_) states.push_back(VOLT_TRY(save_state(vcpu, sources)));
  return states;
}

Result<> Machine::signal_kicks_to(const Fd& event) {
  return vm_.ioeventfd(guest_abi::kPortKick, event);
}

}  // namespace volt::vmm
