#include "vmm/pc/linux_machine.h"

#include "vmm/pc/layout.h"
#include "vmm/virtio/entropy.h"

namespace volt::pc {
namespace {

constexpr std::size_t kLinesTold = 20;

}  // namespace

Result<std::unique_ptr<LinuxMachine>> LinuxMachine::build(const vmm::Kvm& kvm,
                                                          vmm::GuestMemory memory,
                                                          const LinuxMachineConfig& config) {
  std::unique_ptr<LinuxMachine> machine(new LinuxMachine);
  machine->console_ = VOLT_TRY(Console::create(config.show_console));
  Console* const console = machine->console_.get();
  machine->pc_ =
      VOLT_TRY(Pc::build(kvm, std::move(memory),
                         {.cpus = config.cpus,
                          .cpu_template = config.cpu_template,
                          .console = [console](std::byte each) { console->put(each); }}));
  VOLT_TRY(machine->add_devices(config.vsock));
  return machine;
}

Result<> LinuxMachine::add_devices(const virtio::VsockOptions& options) {
  std::unique_ptr<virtio::Vsock> vsock = VOLT_TRY(virtio::Vsock::create(options));
  vsock_ = vsock.get();
  VOLT_TRY(pc_->add_virtio(std::move(vsock)));
  agent_ = VOLT_TRY(AgentLink::create(*vsock_, pc_->ended().get()));
  VOLT_TRY(pc_->add_virtio(std::make_unique<virtio::Entropy>()));
  auto balloon = std::make_unique<virtio::Balloon>(
      [this](std::uint64_t address, std::uint64_t bytes) -> Result<> {
        *gave_back_ = true;
        if (VOLT_TRY(pc_->memory().discard(address, bytes))) return {};
        return fail(Code::kBusy, "too many mappings");
      });
  balloon_ = balloon.get();
  return pc_->add_virtio(std::move(balloon));
}

Result<LinuxState> LinuxMachine::save(const vmm::Kvm& kvm) {
  return LinuxState{
      .pc = VOLT_TRY(pc_->save(kvm)), .vsock = vsock_->save(), .balloon = balloon_->save()};
}

Result<> LinuxMachine::load(const LinuxState& state, std::span<const std::byte, 16> generation,
                            std::uint32_t cid) {
  VOLT_TRY(pc_->load(state.pc));
  VOLT_TRY(vsock_->load({.guest_cid = cid, .unseen = state.vsock.unseen}));
  vsock_->transport_reset();
  VOLT_TRY(balloon_->load(state.balloon));
  VOLT_TRY(memory().write(kGeneration, generation));
  pc_->power().announce(kNewGenerationBit);
  return {};
}

Error LinuxMachine::explained(Error what) {
  if (const Result<> paused = pc_->pause(); !paused) return paused.error();
  if (const auto outcome = pc_->outcome(); outcome && !*outcome) what = outcome->error();
  const std::string panic = console_->panic();
  if (!panic.empty()) what.context += ": " + panic;
  if (what.code == Code::kDeadline) what.context += "; " + pc_->describe_cpus();
  const std::vector<std::string> lines = console_->last_lines(kLinesTold);
  if (!lines.empty()) what.context += "; the console's last lines:";
  for (const std::string& line : lines) what.context += "\n  " + line;
  return what;
}

}  // namespace volt::pc
