#include "formats/machine_state.h"

#include <algorithm>
#include <limits>
#include <string>

#include "formats/field.h"
#include "formats/message.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr std::uint32_t kMax8Bits = std::numeric_limits<std::uint8_t>::max();
constexpr std::uint32_t kMax16Bits = std::numeric_limits<std::uint16_t>::max();
constexpr std::uint32_t kAttributeBits = (1 << 13) - 1;

constexpr Occurrence kVcpuOccurrences[] = {
    {1, 1, "general"}, {2, 1, "special"}, {3, 1, "xsave"},       {4, kMaxXcrs, "xcrs"},
    {5, 1, "debug"},   {6, 1, "events"},  {7, kMaxMsrs, "msrs"}, {9, kMaxCpuidEntries, "cpuid"},
    {10, 1, "lapic"},
};
constexpr Occurrence kVirtioOccurrences[] = {{9, kMaxVirtioQueues, "queues"}};
constexpr Occurrence kPcOccurrences[] = {
    {2, 1, "io_apic"},
    {3, 1, "serial"},
    {5, kMaxVirtio, "virtio", kVirtioOccurrences},
};
constexpr Occurrence kOccurrences[] = {
    {1, kMaxVcpus, "vcpus", kVcpuOccurrences},
    {2, 1, "resume"},
    {3, 1, "pc", kPcOccurrences},
};

std::string count_not(int count, const char* expected) {
  return join({std::to_string(count), " values, not ", expected});
}

Result<> at_most(const char* field, std::uint64_t value, std::uint64_t limit) {
  if (value <= limit) return {};
  return corrupt(field, join({std::to_string(value), ", at most ", std::to_string(limit)}));
}

Result<> check_segment(bool present, const v1::Segment& segment) {
  if (!present) return corrupt("", "missing");
  VOLT_TRY(at_most("selector", segment.selector(), kMax16Bits));
  return at_most("attributes", segment.attributes(), kAttributeBits);
}

Result<> check_table(bool present, const v1::DescriptorTable& table) {
  if (!present) return corrupt("", "missing");
  return at_most("limit", table.limit(), kMax16Bits);
}

Result<> check_special(const v1::SpecialRegisters& special) {
  VOLT_TRY(under("cs", check_segment(special.has_cs(), special.cs())));
  VOLT_TRY(under("ds", check_segment(special.has_ds(), special.ds())));
  VOLT_TRY(under("es", check_segment(special.has_es(), special.es())));
  VOLT_TRY(under("fs", check_segment(special.has_fs(), special.fs())));
  VOLT_TRY(under("gs", check_segment(special.has_gs(), special.gs())));
  VOLT_TRY(under("ss", check_segment(special.has_ss(), special.ss())));
  VOLT_TRY(under("tr", check_segment(special.has_tr(), special.tr())));
  VOLT_TRY(under("ldt", check_segment(special.has_ldt(), special.ldt())));
  VOLT_TRY(under("gdt", check_table(special.has_gdt(), special.gdt())));
  return under("idt", check_table(special.has_idt(), special.idt()));
}

Result<> check_events(const v1::Events& events) {
  const struct {
    const char* field;
    std::uint32_t value;
  } bytes[] = {
      {"exception_injected", events.exception_injected()},
      {"exception_vector", events.exception_vector()},
      {"exception_has_error_code", events.exception_has_error_code()},
      {"exception_pending", events.exception_pending()},
      {"interrupt_injected", events.interrupt_injected()},
      {"interrupt_vector", events.interrupt_vector()},
      {"interrupt_soft", events.interrupt_soft()},
      {"interrupt_shadow", events.interrupt_shadow()},
      {"nmi_injected", events.nmi_injected()},
      {"nmi_pending", events.nmi_pending()},
      {"nmi_masked", events.nmi_masked()},
  };
  for (const auto& byte : bytes) VOLT_TRY(at_most(byte.field, byte.value, kMax8Bits));
  return {};
}

Result<> check_list(const char* field, int count, std::size_t limit) {
  return at_most(field, static_cast<std::uint64_t>(count), limit);
}

Result<> check_vcpu(const v1::Vcpu& vcpu) {
  if (!vcpu.has_general()) return corrupt("general", "missing");
  if (const int count = vcpu.general().r8_to_r15_size(); count != 8) {
    return corrupt("general.r8_to_r15", count_not(count, "8"));
  }
  if (!vcpu.has_special()) return corrupt("special", "missing");
  VOLT_TRY(under("special", check_special(vcpu.special())));
  if (const std::size_t bytes = vcpu.xsave().size();
      bytes < kMinXsaveBytes || bytes > kMaxXsaveBytes) {
    return corrupt("xsave",
                   join({std::to_string(bytes), " bytes, not ", std::to_string(kMinXsaveBytes),
                         " to ", std::to_string(kMaxXsaveBytes)}));
  }
  VOLT_TRY(check_list("xcrs", vcpu.xcrs_size(), kMaxXcrs));
  if (!vcpu.has_debug()) return corrupt("debug", "missing");
  if (const int count = vcpu.debug().db_size(); count != 4) {
    return corrupt("debug.db", count_not(count, "4"));
  }
  if (!vcpu.has_events()) return corrupt("events", "missing");
  VOLT_TRY(under("events", check_events(vcpu.events())));
  VOLT_TRY(check_list("msrs", vcpu.msrs_size(), kMaxMsrs));
  return check_list("cpuid", vcpu.cpuid_size(), kMaxCpuidEntries);
}

Result<> check_lapic(bool wanted, const v1::Vcpu& vcpu) {
  const std::size_t bytes = vcpu.lapic().size();
  if (bytes == (wanted ? kLapicBytes : 0)) return {};
  return corrupt("lapic", join({std::to_string(bytes), " bytes, not ", wanted ? "1024" : "0"}));
}

Result<> check_serial(const v1::Serial& serial) {
  VOLT_TRY(at_most("interrupt_enable", serial.interrupt_enable(), kMax8Bits));
  VOLT_TRY(at_most("fifo_control", serial.fifo_control(), kMax8Bits));
  VOLT_TRY(at_most("line_control", serial.line_control(), kMax8Bits));
  VOLT_TRY(at_most("modem_control", serial.modem_control(), kMax8Bits));
  VOLT_TRY(at_most("scratch", serial.scratch(), kMax8Bits));
  return at_most("divisor", serial.divisor(), kMax16Bits);
}

Result<> check_virtio(const v1::Virtio& virtio) {
  VOLT_TRY(check_list("queues", virtio.queues_size(), kMaxVirtioQueues));
  VOLT_TRY(at_most("unseen_resets", virtio.unseen_resets(), kMax16Bits));
  VOLT_TRY(at_most("unseen_published", virtio.unseen_published(), kMax16Bits));
  for (int i = 0; i < virtio.queues_size(); ++i) {
    const v1::VirtioQueue& queue = virtio.queues(i);
    const std::uint32_t widest =
        std::max({queue.size(), queue.next_available(), queue.next_used()});
    VOLT_TRY(under("queues", static_cast<std::size_t>(i), at_most("", widest, kMax16Bits)));
  }
  return {};
}

Result<> check_pc(const v1::Pc& pc) {
  if (!pc.has_io_apic()) return corrupt("io_apic", "missing");
  if (const int count = pc.io_apic().redirections_size(); count != kRedirections) {
    return corrupt("io_apic.redirections", count_not(count, "24"));
  }
  if (!pc.has_serial()) return corrupt("serial", "missing");
  VOLT_TRY(under("serial", check_serial(pc.serial())));
  VOLT_TRY(at_most("events", pc.events(), kMax8Bits));
  VOLT_TRY(check_list("virtio", pc.virtio_size(), kMaxVirtio));
  for (int i = 0; i < pc.virtio_size(); ++i) {
    VOLT_TRY(under("virtio", static_cast<std::size_t>(i), check_virtio(pc.virtio(i))));
  }
  return {};
}

Result<> check_state(const MachineState& state) {
  if (state.vcpus().empty()) return corrupt("vcpus", "none");
  VOLT_TRY(check_list("vcpus", state.vcpus_size(), kMaxVcpus));
  for (int i = 0; i < state.vcpus_size(); ++i) {
    const auto number = static_cast<std::size_t>(i);
    VOLT_TRY(under("vcpus", number, check_vcpu(state.vcpus(i))));
    VOLT_TRY(under("vcpus", number, check_lapic(state.has_pc(), state.vcpus(i))));
  }
  if (state.has_pc()) VOLT_TRY(under("pc", check_pc(state.pc())));
  return {};
}

}  // namespace

Result<> check(const MachineState& state) {
  VOLT_TRY_IN("state", check_state(state));
  return {};
}

std::vector<std::byte> encode(const MachineState& state) {
  const Result<> good = check(state);
  require(good.has_value(), good ? "" : good.error().context.c_str());
  return sealed(FileKind::kMachineState, state);
}

Result<MachineState> decode_machine_state(std::span<const std::byte> file) {
  const std::span<const std::byte> body = VOLT_TRY(unseal(FileKind::kMachineState, file, "state"));
  MachineState state;
  VOLT_TRY_IN("state", parse(body, kOccurrences, state));
  VOLT_TRY(check(state));
  return state;
}

}  // namespace volt::formats
