// The part of a machine state that only Linux guests have.
#include <gtest/gtest.h>

#include "formats/machine_state.h"
#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

MachineState linux_state() {
  MachineState state = sample_state();
  state.clear_resume();
  state.mutable_vcpus(0)->set_lapic(counting(kLapicBytes, 5));
  v1::Pc& pc = *state.mutable_pc();
  pc.set_clock_ns(123);
  for (std::size_t i = 0; i < kRedirections; ++i) pc.mutable_io_apic()->add_redirections(i);
  pc.mutable_serial()->set_divisor(12);
  pc.set_events(3);
  v1::Virtio& device = *pc.add_virtio();
  device.set_device_id(19);
  device.set_guest_cid(7);
  device.add_queues()->set_size(256);
  return state;
}

Result<> read(std::span<const std::byte> file) {
  VOLT_TRY(decode_machine_state(file));
  return {};
}

TEST(PcStateTest, ComesBackAsItWas) {
  const Bytes file = encode(linux_state());
  const Result<MachineState> state = decode_machine_state(file);
  ASSERT_TRUE(state) << state.error().context;
  EXPECT_EQ(state->SerializeAsString(), linux_state().SerializeAsString());
}

TEST(PcStateTest, EveryTruncationAndBitFlipIsRefused) {
  expect_every_truncation_refused(encode(linux_state()), read);
  expect_every_bit_flip_refused(encode(linux_state()), "state", read);
}

TEST(PcStateTest, EachRuleIsSaidByName) {
  const struct {
    const char* expected;
    std::function<void(MachineState&)> commit;
  } violations[] = {
      {"vcpus[0].lapic: 0 bytes, not 1024",
       [](MachineState& s) { s.mutable_vcpus(0)->clear_lapic(); }},
      {"vcpus[0].lapic: 1024 bytes, not 0", [](MachineState& s) { s.clear_pc(); }},
      {"pc.io_apic: missing", [](MachineState& s) { s.mutable_pc()->clear_io_apic(); }},
      {"pc.io_apic.redirections: 25 values, not 24",
       [](MachineState& s) { s.mutable_pc()->mutable_io_apic()->add_redirections(0); }},
      {"pc.serial: missing", [](MachineState& s) { s.mutable_pc()->clear_serial(); }},
      {"pc.serial.scratch: 256, at most 255",
       [](MachineState& s) { s.mutable_pc()->mutable_serial()->set_scratch(256); }},
      {"pc.events: 256, at most 255", [](MachineState& s) { s.mutable_pc()->set_events(256); }},
      {"pc.virtio: 9, at most 8",
       [](MachineState& s) {
         while (s.pc().virtio_size() < 9) s.mutable_pc()->add_virtio();
       }},
      {"pc.virtio[0].queues[0]: 65536, at most 65535",
       [](MachineState& s) {
         s.mutable_pc()->mutable_virtio(0)->mutable_queues(0)->set_size(0x1'0000);
       }},
      {"pc.virtio[0].unseen_resets: 65536, at most 65535",
       [](MachineState& s) { s.mutable_pc()->mutable_virtio(0)->set_unseen_resets(0x1'0000); }},
  };
  for (const auto& [expected, commit] : violations) {
    MachineState state = linux_state();
    commit(state);
    const Result<> good = check(state);
    ASSERT_FALSE(good) << expected;
    EXPECT_EQ(good.error().context, std::string("state: ") + expected);
    EXPECT_FALSE(read(sealed_as(FileKind::kMachineState, state))) << expected;
  }
}

}  // namespace
}  // namespace volt::formats
