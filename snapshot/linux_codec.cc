#include "snapshot/linux_codec.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "snapshot/state_codec.h"

namespace volt::snapshot {
namespace {

using formats::v1::IoApic;
using formats::v1::Serial;
using formats::v1::Virtio;
using formats::v1::VirtioQueue;

// The order of the devices in a machine (vmm/pc/linux_machine.h).
constexpr int kVsock = 0;
constexpr int kBalloon = 2;

void put(const kvm_ioapic_state& from, IoApic& to) {
  to.set_base(from.base_address);
  to.set_selected(from.ioregsel);
  to.set_id(from.id);
  to.set_pending(from.irr);
  for (const auto& pin : from.redirtbl) to.add_redirections(pin.bits);
}

kvm_ioapic_state take(const IoApic& from) {
  kvm_ioapic_state to = {};
  to.base_address = from.base();
  to.ioregsel = from.selected();
  to.id = from.id();
  to.irr = from.pending();
  static_assert(std::size(kvm_ioapic_state{}.redirtbl) == formats::kRedirections);
  for (std::size_t i = 0; i < formats::kRedirections; ++i) {
    to.redirtbl[i].bits = from.redirections(static_cast<int>(i));
  }
  return to;
}

void put(const pc::SerialState& from, Serial& to) {
  to.set_interrupt_enable(from.interrupt_enable);
  to.set_fifo_control(from.fifo_control);
  to.set_line_control(from.line_control);
  to.set_modem_control(from.modem_control);
  to.set_scratch(from.scratch);
  to.set_divisor(from.divisor);
  to.set_transmit_interrupt(from.transmit_interrupt);
}

pc::SerialState take(const Serial& from) {
  return {.interrupt_enable = static_cast<std::uint8_t>(from.interrupt_enable()),
          .fifo_control = static_cast<std::uint8_t>(from.fifo_control()),
          .line_control = static_cast<std::uint8_t>(from.line_control()),
          .modem_control = static_cast<std::uint8_t>(from.modem_control()),
          .scratch = static_cast<std::uint8_t>(from.scratch()),
          .divisor = static_cast<std::uint16_t>(from.divisor()),
          .transmit_interrupt = from.transmit_interrupt()};
}

void put(const virtio::MmioState& from, Virtio& to) {
  to.set_device_id(from.device_id);
  to.set_status(from.status);
  to.set_driver_features(from.driver_features);
  to.set_device_features_select(from.device_features_select);
  to.set_driver_features_select(from.driver_features_select);
  to.set_queue_select(from.queue_select);
  to.set_interrupt_status(from.interrupt_status);
  to.set_config_generation(from.config_generation);
  for (const virtio::QueueState& queue : from.queues) {
    VirtioQueue& stored = *to.add_queues();
    stored.set_size(queue.size);
    stored.set_ready(queue.ready);
    stored.set_descriptors(queue.descriptors);
    stored.set_available(queue.available);
    stored.set_used(queue.used);
    stored.set_next_available(queue.next_available);
    stored.set_next_used(queue.next_used);
  }
}

virtio::MmioState take(const Virtio& from) {
  virtio::MmioState to = {.device_id = from.device_id(),
                          .status = from.status(),
                          .driver_features = from.driver_features(),
                          .device_features_select = from.device_features_select(),
                          .driver_features_select = from.driver_features_select(),
                          .queue_select = from.queue_select(),
                          .interrupt_status = from.interrupt_status(),
                          .config_generation = from.config_generation(),
                          .queues = {}};
  for (const VirtioQueue& queue : from.queues()) {
    to.queues.push_back({.size = static_cast<std::uint16_t>(queue.size()),
                         .ready = queue.ready(),
                         .descriptors = queue.descriptors(),
                         .available = queue.available(),
                         .used = queue.used(),
                         .next_available = static_cast<std::uint16_t>(queue.next_available()),
                         .next_used = static_cast<std::uint16_t>(queue.next_used())});
  }
  return to;
}

}  // namespace

formats::MachineState to_message(const pc::LinuxState& state) {
  formats::MachineState message;
  for (const vmm::CpuState& cpu : state.pc.cpus) {
    formats::v1::Vcpu& stored = *message.add_vcpus();
    stored = to_message(cpu);
    if (cpu.lapic) stored.set_lapic(cpu.lapic->regs, sizeof cpu.lapic->regs);
  }
  formats::v1::Pc& pc = *message.mutable_pc();
  pc.set_clock_ns(state.pc.clock_ns);
  put(state.pc.io_apic, *pc.mutable_io_apic());
  put(state.pc.serial, *pc.mutable_serial());
  pc.set_events(state.pc.events);
  for (const virtio::MmioState& device : state.pc.virtio) put(device, *pc.add_virtio());
  if (pc.virtio_size() == static_cast<int>(pc::kLinuxDevices)) {
    Virtio& vsock = *pc.mutable_virtio(kVsock);
    vsock.set_guest_cid(state.vsock.guest_cid);
    vsock.set_unseen_resets(state.vsock.unseen.resets);
    vsock.set_unseen_published(state.vsock.unseen.published);
    pc.mutable_virtio(kBalloon)->set_target_pages(state.balloon.target_pages);
    pc.mutable_virtio(kBalloon)->set_actual_pages(state.balloon.actual_pages);
  }
  return message;
}

Result<pc::LinuxState> linux_state_from(const formats::MachineState& message) {
  const formats::v1::Pc& pc = message.pc();
  if (pc.virtio_size() != static_cast<int>(pc::kLinuxDevices)) {
    return fail(Code::kUnsupported, "state: pc.virtio: " + std::to_string(pc.virtio_size()) +
                                        " devices, this build's machines have " +
                                        std::to_string(pc::kLinuxDevices));
  }
  pc::LinuxState state;
  for (const formats::v1::Vcpu& vcpu : message.vcpus()) {
    vmm::CpuState cpu = from_message(vcpu);
    cpu.lapic.emplace();
    static_assert(sizeof cpu.lapic->regs == formats::kLapicBytes);
    std::memcpy(cpu.lapic->regs, vcpu.lapic().data(), formats::kLapicBytes);
    state.pc.cpus.push_back(std::move(cpu));
  }
  state.pc.clock_ns = pc.clock_ns();
  state.pc.io_apic = take(pc.io_apic());
  state.pc.serial = take(pc.serial());
  state.pc.events = static_cast<std::uint8_t>(pc.events());
  for (const Virtio& device : pc.virtio()) state.pc.virtio.push_back(take(device));
  const Virtio& vsock = pc.virtio(kVsock);
  state.vsock.guest_cid = vsock.guest_cid();
  state.vsock.unseen.resets = static_cast<std::uint16_t>(vsock.unseen_resets());
  state.vsock.unseen.published = static_cast<std::uint16_t>(vsock.unseen_published());
  state.balloon.target_pages = pc.virtio(kBalloon).target_pages();
  state.balloon.actual_pages = pc.virtio(kBalloon).actual_pages();
  return state;
}

}  // namespace volt::snapshot
