#include "vmm/boot.h"

#include "vmm/identity.h"
#include "vmm/laps.h"
#include "vmm/micro_cpu.h"

namespace volt::vmm {
namespace {

Result<> check_ready(const guest_abi::ReadyInfo& ready, const BootConfig& config) {
  using namespace guest_abi;
  const std::uint64_t pages = config.working_set_bytes / kPageBytes;
  const bool as_asked = ready.working_set_bytes == config.working_set_bytes;
  const bool aligned = ready.working_set_base % kPageBytes == 0;
  const std::uint64_t ram_pages = config.ram_bytes / kPageBytes;
  const std::uint64_t base_page = ready.working_set_base / kPageBytes;
  if (!as_asked || !aligned || base_page > ram_pages || pages > ram_pages - base_page) {
    return fail(Code::kGuestCrashed, "the guest reports a working set it cannot have");
  }
  return {};
}

Result<> check_fits(const GuestImage& image, const BootConfig& config) {
  const std::uint64_t least = image.note().min_ram_bytes;
  if (config.ram_bytes < least || config.working_set_bytes > config.ram_bytes - least) {
    return fail(Code::kInvalid, "a working set of " + std::to_string(config.working_set_bytes) +
                                    " bytes and the guest's own " + std::to_string(least) +
                                    " do not fit into " + std::to_string(config.ram_bytes) +
                                    " bytes of memory");
  }
  if (config.working_set_bytes % guest_abi::kPageBytes != 0) {
    return fail(Code::kInvalid, "the working set must be a multiple of 4 KiB");
  }
  return {};
}

}  // namespace

Result<Booted> boot(const Kvm& kvm, const GuestImage& image, const BootConfig& config,
                    Deadline deadline) {
  const std::vector<RegionLayout> layout = VOLT_TRY(ram_layout(config.ram_bytes));
  VOLT_TRY(check_fits(image, config));
  Booted booted;
  Laps laps;
  booted.machine = VOLT_TRY(Machine::build(kvm, 1));
  Machine& machine = *booted.machine;
  booted.phases.vm_us = laps.lap_us();

  GuestMemory memory = VOLT_TRY(GuestMemory::anonymous(layout));
  VOLT_TRY(image.load(memory));
  VOLT_TRY(machine.attach_memory(std::move(memory)));
  booted.phases.memory_us = laps.lap_us();

  const guest_abi::Note& note = image.note();
  kvm_regs regs = micro_regs(note.entry, note.stack_top, guest_abi::kWindowBase);
  regs.rsi = guest_abi::kBootedByVolt;
  machine.start(regs, micro_sregs(note));
  machine.exchange().set_boot({.abi = guest_abi::kVersion,
                               .workload = config.workload,
                               .ram_bytes = config.ram_bytes,
                               .working_set_bytes = config.working_set_bytes,
                               .seed = config.seed});
  const std::uint64_t tsc_khz = VOLT_TRY(machine.tsc_khz());
  machine.exchange().set_identity(VOLT_TRY(fresh_identity(tsc_khz)));
  booted.phases.state_us = laps.lap_us();

  const Doorbell doorbell = VOLT_TRY_IN("boot", machine.run(deadline));
  if (doorbell.kind != Doorbell::Kind::kReady) {
    return fail(Code::kGuestCrashed, "boot: the guest rang before it said that it is ready");
  }
  booted.ready = machine.exchange().ready_info();
  VOLT_TRY(check_ready(booted.ready, config));
  booted.phases.run_us = laps.lap_us();
  return booted;
}

}  // namespace volt::vmm
