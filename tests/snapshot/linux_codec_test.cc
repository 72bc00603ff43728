#include "snapshot/linux_codec.h"

#include <gtest/gtest.h>

namespace volt::snapshot {
namespace {

// Every field another number.
pc::LinuxState numbered() {
  pc::LinuxState state;
  std::uint32_t n = 1;
  vmm::CpuState cpu;
  cpu.xsave.resize(4096);
  cpu.lapic.emplace();
  for (char& each : cpu.lapic->regs) each = static_cast<char>(n++);
  state.pc.cpus.push_back(cpu);
  state.pc.clock_ns = n++;
  state.pc.io_apic.base_address = n++;
  state.pc.io_apic.ioregsel = n++;
  state.pc.io_apic.id = n++;
  state.pc.io_apic.irr = n++;
  for (auto& pin : state.pc.io_apic.redirtbl) pin.bits = n++;
  state.pc.serial = {.interrupt_enable = 1,
                     .fifo_control = 2,
                     .line_control = 3,
                     .modem_control = 4,
                     .scratch = 5,
                     .divisor = 600,
                     .transmit_interrupt = true};
  state.pc.events = 3;
  for (std::uint32_t i = 0; i < pc::kLinuxDevices; ++i) {
    virtio::MmioState device = {.device_id = n++,
                                .status = n++,
                                .driver_features = n++,
                                .device_features_select = n++,
                                .driver_features_select = n++,
                                .queue_select = n++,
                                .interrupt_status = n++,
                                .config_generation = n++,
                                .queues = {}};
    const auto next = [&n] { return static_cast<std::uint16_t>(n++); };
    device.queues.push_back({.size = next(),
                             .ready = true,
                             .descriptors = n++,
                             .available = n++,
                             .used = n++,
                             .next_available = next(),
                             .next_used = next()});
    state.pc.virtio.push_back(device);
  }
  state.vsock = {.guest_cid = n++, .unseen = {.resets = 1, .published = 9}};
  state.balloon = {.target_pages = n++, .actual_pages = n++};
  return state;
}

TEST(LinuxCodecTest, EveryFieldKeepsItsValueAndPlace) {
  const pc::LinuxState state = numbered();
  const formats::MachineState message = to_message(state);
  ASSERT_TRUE(formats::check(message)) << formats::check(message).error().context;
  const Result<pc::LinuxState> back = linux_state_from(message);
  ASSERT_TRUE(back) << back.error().context;
  EXPECT_EQ(to_message(*back).SerializeAsString(), message.SerializeAsString());
  EXPECT_EQ(back->pc.virtio, state.pc.virtio);
  EXPECT_EQ(back->vsock, state.vsock);
  EXPECT_EQ(back->balloon, state.balloon);
  EXPECT_EQ(back->pc.clock_ns, state.pc.clock_ns);
  EXPECT_EQ(back->pc.serial.divisor, 600);
  EXPECT_EQ(back->pc.io_apic.redirtbl[23].bits, state.pc.io_apic.redirtbl[23].bits);
  EXPECT_EQ(back->pc.cpus[0].lapic->regs[1000], state.pc.cpus[0].lapic->regs[1000]);
}

TEST(LinuxCodecTest, OtherDevicesThanAMachineHasAreRefused) {
  formats::MachineState message = to_message(numbered());
  message.mutable_pc()->add_virtio();
  const Result<pc::LinuxState> state = linux_state_from(message);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, Code::kUnsupported);
}

}  // namespace
}  // namespace volt::snapshot
