#include "snapshot/restore.h"

#include "snapshot/check_memory.h"
#include "snapshot/compatibility.h"
#include "snapshot/linux_guest.h"
#include "snapshot/state_codec.h"
#include "vmm/identity.h"
#include "vmm/laps.h"
#include "vmm/micro_cpu.h"

namespace volt::snapshot {
namespace {

using uffd::pager::Mode;

// Mapping needs none of the index's entries; whoever reads units does.
OpenedSnapshot::Index index_needed(Loader asked, bool verify_first) {
  const bool may_map = asked == Loader::kMap || asked == Loader::kAuto;
  return may_map && !verify_first ? OpenedSnapshot::Index::kHead : OpenedSnapshot::Index::kWhole;
}

struct Resolved {
  std::shared_ptr<const OpenedSnapshot> snapshot;
  ChosenLoader loader;
  std::unique_ptr<uffd::PagerClient> pager;  // null: it is for us to serve
};

Mode mode_of(const RestoreOptions& options) {
  return options.isolate_image ? Mode::kIsolated : Mode::kShared;
}

bool is_elsewhere(const RestoreOptions& options) {
  return !options.pager.empty() || !options.uffd_handler.empty();
}

// Elsewhere a page comes when it is touched, and from nowhere but there.
Result<> check_elsewhere(const RestoreOptions& options) {
  const bool either = is_elsewhere(options);
  if (!either && options.isolate_image) {
    return fail(Code::kInvalid, "an image is isolated only by a pager of another process");
  }
  if (!options.pager.empty() && !options.uffd_handler.empty()) {
    return fail(Code::kInvalid, "a pager or a handler, not both");
  }
  if (either && options.loader != Loader::kAuto && options.loader != Loader::kUffd) {
    return fail(Code::kInvalid, std::string("loader ") + loader_name(options.loader) +
                                    " needs no pager; one serves loader uffd");
  }
  return {};
}

// With the name that was asked for, and the digest where one is known.
std::string full_text(const Reference& reference) {
  std::string text = reference.text();
  if (!reference.name.empty() && reference.digest) {
    text += "@sha256:" + formats::to_hex(*reference.digest);
  }
  return text;
}

Result<Resolved> resolve(const Store& store, const Reference& reference,
                         const RestoreOptions& options) {
  VOLT_TRY(check_elsewhere(options));
  if (!options.pager.empty()) {
    VOLT_TRY(uffd_usable());
    auto pager = VOLT_TRY(uffd::PagerClient::connect(
        {.path = options.pager, .image = full_text(reference), .mode = mode_of(options)}));
    auto snapshot = VOLT_TRY(describe(*pager));
    if (reference.digest && *reference.digest != snapshot->digest()) {
      return fail(Code::kCorrupt, "pager: it gave another snapshot than was asked for");
    }
    return Resolved{std::move(snapshot),
                    {Loader::kUffd, "the pager at " + options.pager + " serves its memory"},
                    std::move(pager)};
  }
  const bool verify_first = options.verify == RestoreOptions::Verify::kEverythingFirst;
  auto snapshot = std::make_shared<const OpenedSnapshot>(
      VOLT_TRY(OpenedSnapshot::open(store, reference, index_needed(options.loader, verify_first))));
  if (!options.uffd_handler.empty()) {
    return Resolved{std::move(snapshot),
                    {Loader::kUffd, "the handler at " + options.uffd_handler + " fills its memory"},
                    nullptr};
  }
  auto chosen = VOLT_TRY(choose_loader(options.loader, snapshot->is_raw()));
  return Resolved{std::move(snapshot), std::move(chosen), nullptr};
}

Result<HotSetPlan> hot_set_of(const Resolved& resolved, const RestoreOptions& options) {
  if (!is_elsewhere(options)) {
    return plan_hot_set(options.hot_set, *resolved.snapshot,
                        resolved.loader.loader == Loader::kCopy);
  }
  if (options.hot_set == HotSetMode::kRecord) {
    return fail(Code::kInvalid, "a hot set is recorded where the store is, without a pager");
  }
  return HotSetPlan{HotSetRole::kNone, "the memory is served elsewhere", {}};
}

Result<LoadedMemory> load(Resolved& resolved, const RestoreOptions& options,
                          const HotSetPlan& hot_set) {
  if (resolved.pager != nullptr) {
    return load_from_pager(*resolved.snapshot, std::move(resolved.pager), mode_of(options));
  }
  if (!options.uffd_handler.empty()) {
    return load_from_handler(*resolved.snapshot, options.uffd_handler);
  }
  return load_memory(resolved.loader.loader, resolved.snapshot, {options.faults, hot_set});
}

// Memory that no machine of ours could have is refused before anything is made for it.
Result<> check_layout(const formats::v1::Memory& memory) {
  std::uint64_t total = 0;
  std::vector<vmm::RegionLayout> claimed;
  for (const auto& region : memory.regions()) {
    claimed.push_back({region.guest_base(), region.size_bytes()});
    total += region.size_bytes();
  }
  const auto possible = vmm::ram_layout(total);
  if (!possible || *possible != claimed) {
    return fail(Code::kUnsupported,
                "manifest: memory.regions: no guest of this build has such memory");
  }
  return {};
}

// Late slots need an exit for each access they miss; an event delivered through such memory gives
// none. A guest with a resume entry keeps its stacks and tables in its data.
vmm::Attach attach_how(const LoadedMemory& loaded, const formats::MachineState& state) {
  return state.has_resume() ? loaded.attach : vmm::Attach::kAll;
}

// A guest with a resume entry begins there in a fresh CPU; any other goes on with its whole state.
Result<> load_cpus(vmm::Machine& machine, const formats::MachineState& state) {
  if (state.has_resume()) {
    const auto& resume = state.resume();
    const kvm_regs regs = vmm::micro_regs(resume.entry(), resume.stack_top(), resume.argument());
    machine.start(regs, sregs_from(state.vcpus(0).special()));
    return {};
  }
  std::vector<vmm::CpuState> cpus;
  for (const auto& vcpu : state.vcpus()) cpus.push_back(from_message(vcpu));
  return machine.load(cpus);
}

// Nothing of the guest's own runs before it has these; a guest that ignores them fails its first
// call.
Result<> give_identity(vmm::Machine& machine) {
  const std::uint64_t tsc_khz = VOLT_TRY(machine.tsc_khz());
  machine.exchange().set_identity(VOLT_TRY(vmm::fresh_identity(tsc_khz)));
  return {};
}

Sandbox::Facts facts_of(const OpenedSnapshot& snapshot) {
  const auto& digest = snapshot.digest();
  return {.guest = snapshot.manifest().guest(),
          .resume = snapshot.state().has_resume() ? std::optional(snapshot.state().resume())
                                                  : std::nullopt,
          .parent = {reinterpret_cast<const char*>(digest.data()), digest.size()},
          .boot_us = snapshot.manifest().boot_us()};
}

// What a clone has not written it shows from its snapshot, unless everything was copied, or comes
// from a process that we only take at its word.
Sandbox::Origin origin_of(const std::shared_ptr<const OpenedSnapshot>& snapshot,
                          const Restored& restored, const RestoreOptions& options) {
  using Memory = Sandbox::Origin::Memory;
  const bool copied =
      restored.loader.loader == Loader::kCopy && restored.hot_set.role != HotSetRole::kRecording;
  const Memory here = copied ? Memory::kCopied : Memory::kShown;
  return {.memory = is_elsewhere(options) ? Memory::kForeign : here,
          .snapshot = is_elsewhere(options) ? nullptr : snapshot,
          .unit_bytes = snapshot->manifest().memory().unit_bytes()};
}

// Steps 4 to 6 for a Linux guest, whose identity is complete once its agent has answered.
Result<std::unique_ptr<Sandbox>> make_linux(const vmm::Kvm& kvm, const OpenedSnapshot& snapshot,
                                            LoadedMemory loaded, const RestoreOptions& options,
                                            Sandbox::Origin origin, RestorePhases& phases) {
  vmm::Laps laps;
  pc::LinuxMachineConfig config = *options.linux_guest;
  config.cpus = static_cast<std::uint32_t>(snapshot.state().vcpus_size());
  auto machine = VOLT_TRY(pc::LinuxMachine::build(kvm, std::move(loaded.memory), config));
  phases.slots_ns = machine->pc().phases().memory_us * 1000;
  phases.vm_ns = laps.lap() - phases.slots_ns;
  Sandbox::Facts facts = facts_of(snapshot);
  auto sandbox = std::make_unique<Sandbox>(std::move(loaded.pager), std::move(machine),
                                           std::move(facts), std::move(origin));
  sandbox->keep(std::move(loaded.populating));
  pc::Pc& pc = sandbox->linux_machine()->pc();
  VOLT_TRY(pc.match_tsc(kvm, snapshot.manifest().compatibility().tsc_khz()));
  VOLT_TRY(load_linux(*sandbox, snapshot.state()));
  phases.state_ns = laps.lap();
  return sandbox;
}

// What the caller can do with must be what it is.
Result<> check_kind(const formats::Manifest& manifest, const RestoreOptions& options) {
  const bool is_linux = manifest.guest().kind() == kLinuxKind;
  if (is_linux == options.linux_guest.has_value()) return {};
  return fail(Code::kConflict, is_linux ? kIsLinux : kIsMicro);
}

}  // namespace

// The whole of a restore; README tells it in the same order.
Result<Restored> restore(const vmm::Kvm& kvm, const Store& store, const Reference& reference,
                         const RestoreOptions& options) {
  vmm::Laps laps;
  Restored restored;
  RestorePhases& phases = restored.phases;

  // 1. Resolve: the reference names a directory; manifest, state and index are opened and checked,
  //    and the memory if asked for. With a pager, it opens them, and sends manifest and state.
  Resolved resolved = VOLT_TRY(resolve(store, reference, options));
  const std::shared_ptr<const OpenedSnapshot> snapshot = resolved.snapshot;
  restored.loader = resolved.loader;
  // 2. Refuse a host that lacks what the guest needs.
  VOLT_TRY(check_kind(snapshot->manifest(), options));
  VOLT_TRY(check_layout(snapshot->manifest().memory()));
  VOLT_TRY(require_compatible(snapshot->manifest(), snapshot->state(), kvm));
  const bool verify_first = options.verify == RestoreOptions::Verify::kEverythingFirst;
  if (verify_first && resolved.pager == nullptr) VOLT_TRY(check_memory(*snapshot));
  phases.resolve_ns = laps.lap();

  // 3. Memory: mapped, faulted in or copied, as the loader does; its hot set begins to arrive.
  restored.hot_set = VOLT_TRY(hot_set_of(resolved, options));
  LoadedMemory loaded = VOLT_TRY(load(resolved, options, restored.hot_set));
  phases.memory_ns = laps.lap();

  if (options.linux_guest) {
    restored.sandbox = VOLT_TRY(make_linux(kvm, *snapshot, std::move(loaded), options,
                                           origin_of(snapshot, restored, options), phases));
    return restored;
  }

  // 4. Build the VM around it: no guest in it yet.
  const std::size_t cpus = static_cast<std::size_t>(snapshot->state().vcpus_size());
  std::unique_ptr<vmm::Machine> machine = VOLT_TRY(vmm::Machine::build(kvm, cpus));
  phases.vm_ns = laps.lap();
  auto sandbox =
      std::make_unique<Sandbox>(std::move(loaded.pager), std::move(machine), facts_of(*snapshot),
                                origin_of(snapshot, restored, options));
  const vmm::Attach how = attach_how(loaded, snapshot->state());
  VOLT_TRY(sandbox->machine().attach_memory(std::move(loaded.memory), how));
  sandbox->keep(std::move(loaded.populating));
  phases.slots_ns = laps.lap();

  // 5. State: registers at the resume entry, or all that each CPU had.
  VOLT_TRY(load_cpus(sandbox->machine(), snapshot->state()));
  phases.state_ns = laps.lap();

  // 6. Identity: new generation, fresh entropy, the clocks of now. Or no restore.
  VOLT_TRY(give_identity(sandbox->machine()));
  phases.identity_ns = laps.lap();

  // 7. Hand over; the first call runs the guest and checks that it took its identity.
  restored.sandbox = std::move(sandbox);
  return restored;
}

Result<vmm::Reply> first_call(Restored& restored, const vmm::Call& call, vmm::Deadline deadline,
                              const vmm::HostServices& services) {
  vmm::Laps laps;
  vmm::Reply reply = VOLT_TRY(restored.sandbox->call(call, deadline, services));
  restored.phases.first_exit_ns = laps.lap();
  return reply;
}

}  // namespace volt::snapshot
