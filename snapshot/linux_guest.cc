#include "snapshot/linux_guest.h"

#include <sys/random.h>

#include <cstring>

#include "snapshot/linux_codec.h"
#include "vmm/laps.h"

namespace volt::snapshot {
namespace {

constexpr std::size_t kGenerationBytes = 16;

Result<> fill_randomly(std::span<std::byte> bytes) {
  const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
  if (got != static_cast<ssize_t>(bytes.size())) return sys_error("getrandom");
  return {};
}

std::string as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Of its own among all guests of a host: 3 to 2^31, from what no two guests share.
std::uint32_t cid_of(std::span<const std::byte, kGenerationBytes> generation) {
  constexpr std::uint32_t kFirst = 3;
  std::uint32_t word;
  std::memcpy(&word, generation.data(), sizeof word);
  return kFirst + (word & 0x7FFF'FFFF) % (0x7FFF'FFFF - kFirst);
}

}  // namespace

std::unique_ptr<Sandbox> linux_sandbox(pc::LinuxBoot boot, std::span<const std::byte> kernel) {
  Sandbox::Facts facts;
  facts.guest.set_kind(kLinuxKind);
  facts.guest.set_image_sha256(as_string(formats::sha256(kernel)));
  facts.guest.set_workload(boot.kernel_version);
  facts.boot_us = boot.phases.total_us();
  facts.guest.set_cpu_template(pc::cpu_template_name(boot.cpu_template));
  facts.guest.set_agent_protocol(agent_abi::kVersion);
  facts.generation = as_string(boot.generation);
  return std::make_unique<Sandbox>(PagedClone{}, std::move(boot.machine), std::move(facts),
                                   Sandbox::Origin{});
}

Result<> load_linux(Sandbox& sandbox, const formats::MachineState& state) {
  std::array<std::byte, kGenerationBytes> generation;
  VOLT_TRY(fill_randomly(generation));
  const pc::LinuxState machine_state = VOLT_TRY(linux_state_from(state));
  VOLT_TRY(sandbox.linux_machine()->load(machine_state, generation, cid_of(generation)));
  sandbox.facts().generation = as_string(generation);
  return {};
}

Result<agent_abi::Resumed> resume_linux(Restored& restored, const std::string& hostname,
                                        vmm::Deadline deadline) {
  vmm::Laps laps;
  Sandbox& sandbox = *restored.sandbox;
  pc::LinuxMachine& machine = *sandbox.linux_machine();
  const pc::ClockSample clocks = VOLT_TRY(machine.pc().sample_clocks());
  vmm::AgentIdentity identity = {.generation = {},
                                 .entropy = {},
                                 .wall_ns = clocks.wall_ns,
                                 .tsc = clocks.tsc,
                                 .tsc_khz = clocks.tsc_khz,
                                 .hostname = hostname};
  std::memcpy(identity.generation.data(), sandbox.facts().generation.data(), kGenerationBytes);
  VOLT_TRY(fill_randomly(std::as_writable_bytes(std::span(identity.entropy))));
  VOLT_TRY(machine.pc().run());
  vmm::AgentConnection agent = VOLT_TRY(machine.agent().connect());
  Result<agent_abi::Resumed> resumed = vmm::resume_guest(std::move(agent), identity, deadline);
  if (!resumed) return std::unexpected(sandbox.explained(machine.explained(resumed.error())));
  restored.phases.identity_ns = laps.lap();
  return resumed;
}

Result<Captured> capture_linux(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                               const Reference& reference, const CaptureOptions& options,
                               vmm::Deadline deadline) {
  if (options.if_taken == Store::IfTaken::kRefuse && store.exists(reference)) {
    return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
  }
  vmm::AgentConnection agent = VOLT_TRY(sandbox.linux_machine()->agent().connect());
  VOLT_TRY_IN("freezing the guest", vmm::freeze_guest(std::move(agent), deadline));
  return capture(kvm, sandbox, store, reference, options);
}

}  // namespace volt::snapshot
