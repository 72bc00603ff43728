#include "vmm/pc/acpi.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "vmm/pc/aml.h"
#include "vmm/pc/layout.h"
#include "vmm/pc/power.h"

namespace volt::pc {
namespace {

// Bytes of a table, field after field, little-endian.
class Table {
 public:
  Table& u8(std::uint64_t value) { return put(value, 1); }
  Table& u16(std::uint64_t value) { return put(value, 2); }
  Table& u32(std::uint64_t value) { return put(value, 4); }
  Table& u64(std::uint64_t value) { return put(value, 8); }
  Table& text(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  Table& zeros(std::size_t count) {
    bytes_.append(count, '\0');
    return *this;
  }
  // A register in I/O space, one byte wide.
  Table& port(std::uint16_t number) { return u8(1).u8(8).u8(0).u8(1).u64(number); }
  Table& no_register() { return zeros(12); }

  std::size_t size() const { return bytes_.size(); }
  // Makes all bytes of [0, end) sum to zero by the one at `at`.
  Table& checksum(std::size_t at, std::size_t end) {
    const auto sum = std::accumulate(
        bytes_.begin(), bytes_.begin() + static_cast<long>(end), 0U,
        [](unsigned so_far, char each) { return so_far + static_cast<unsigned char>(each); });
    bytes_[at] = static_cast<char>(0U - sum);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Table& put(std::uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xFF);
    return *this;
  }
  std::string bytes_;
};

constexpr std::size_t kHeadBytes = 36;
constexpr std::size_t kRootBytes = 36;

// A table with the head that all but the root pointer have.
std::string described(std::string_view signature, unsigned revision, std::string_view body) {
  Table table;
  table.text(signature).u32(kHeadBytes + body.size()).u8(revision).u8(0);
  table.text("VOLT  ").text("VOLTVM  ").u32(1).text("VOLT").u32(1);
  table.text(body);
  return table.checksum(9, table.size()).bytes();
}

std::string root_pointer(std::uint64_t xsdt) {
  Table table;
  table.text("RSD PTR ").u8(0).text("VOLT  ").u8(2).u32(0);
  table.u32(kRootBytes).u64(xsdt).u8(0).zeros(3);
  return table.checksum(8, 20).checksum(32, kRootBytes).bytes();
}

std::string fadt(std::uint64_t dsdt, bool keyboard) {
  constexpr std::uint32_t kPowerButtonIsADevice = 1 << 4;
  constexpr std::uint32_t kSleepButtonIsADevice = 1 << 5;
  constexpr std::uint32_t kResetRegister = 1 << 10;
  constexpr std::uint32_t kHardwareReduced = 1 << 20;
  constexpr std::uint16_t kHasKeyboard = 1 << 1;
  constexpr std::uint16_t kNoVga = 1 << 2;
  constexpr std::uint16_t kNoMsi = 1 << 3;
  constexpr std::uint16_t kNoClock = 1 << 5;
  constexpr std::uint8_t kPulseReset = 0xFE;
  Table body;
  body.zeros(4).u32(0);              // FACS, DSDT as 32 bits: see the 64-bit ones
  body.zeros(109 - kHeadBytes - 8);  // fixed hardware, which is not there
  body.u16((keyboard ? kHasKeyboard : 0) | kNoVga | kNoMsi | kNoClock).u8(0);
  body.u32(kPowerButtonIsADevice | kSleepButtonIsADevice | kResetRegister | kHardwareReduced);
  body.port(kKeyboardPort + 4).u8(kPulseReset).u16(0).u8(5);  // ARM flags; minor version
  body.u64(0).u64(dsdt);
  for (int i = 0; i < 8; ++i) body.no_register();
  body.port(kPowerPort + kSleepControl).port(kPowerPort + kSleepStatus);
  body.text("VOLT").zeros(4);  // who the hypervisor is
  return described("FACP", 6, body.bytes());
}

std::string madt(std::uint32_t cpus) {
  constexpr std::uint32_t kNoPic = 0;
  Table body;
  body.u32(kLocalApic).u32(kNoPic);
  for (std::uint32_t id = 0; id < cpus; ++id) body.u8(0).u8(8).u8(id).u8(id).u32(1);
  const std::uint32_t io_apic_id = cpus;
  body.u8(1).u8(12).u8(io_apic_id).u8(0).u32(kIoApic).u32(0);
  return described("APIC", 5, body.bytes());
}

std::string virtio_device(std::uint32_t number) {
  using namespace aml;
  const std::uint64_t base = kVirtioBase + number * kVirtioBytes;
  const Bytes place = resources({memory32(static_cast<std::uint32_t>(base), kVirtioBytes),
                                 interrupt(kFirstVirtioInterrupt + number)});
  const char digit = static_cast<char>('0' + number);
  return device(
      std::string("VIO") + digit,
      name("_HID", text("LNRO0005")) + name("_UID", integer(number)) + name("_CRS", place));
}

// The interrupt that says: look at the event register. Then who it was for is told.
std::string events() {
  using namespace aml;
  const Bytes why = store(path("EVTS"), local0());
  const Bytes tell = if_bit(local0(), kPowerButtonBit, notify("\\_SB.PWRB", 0x80)) +
                     if_bit(local0(), kNewGenerationBit, notify("\\_SB.VGEN", 0x80));
  return device("GEDV", name("_HID", text("ACPI0013")) + name("_UID", integer(0)) +
                            name("_CRS", resources({interrupt(kEventInterrupt)})) +
                            port_field("EVRG", kPowerPort + kEvents, "EVTS") +
                            method("_EVT", 1, why + tell));
}

std::string dsdt(const AcpiMachine& machine) {
  using namespace aml;
  Bytes devices = device(
      "COM1", name("_HID", eisa_id("PNP0501")) + name("_UID", integer(0)) +
                  name("_CRS", resources({ports(kSerialPort, 8), interrupt(kSerialInterrupt)})));
  for (std::uint32_t i = 0; i < machine.virtio_devices; ++i) devices += virtio_device(i);
  devices += device("PWRB", name("_HID", eisa_id("PNP0C0C")));
  const Bytes where = package({integer(kGeneration), integer(0)});
  devices += device("VGEN", name("_HID", text("VOLT0001")) + name("_CID", text("VM_Gen_Counter")) +
                                name("_DDN", text("VM_Gen_Counter")) + name("ADDR", where));
  devices += events();
  const Bytes off = package({integer(kSoftOff), integer(0), integer(0), integer(0)});
  return described("DSDT", 2, scope("\\_SB", devices) + name("\\_S5", off));
}

}  // namespace

std::vector<std::byte> acpi_tables(const AcpiMachine& machine) {
  std::string area(kRootBytes, '\0');
  const auto add = [&area](const std::string& table) {
    area.resize((area.size() + 15) / 16 * 16, '\0');
    area += table;
    return kAcpi + area.size() - table.size();
  };
  const std::uint64_t facp = add(fadt(add(dsdt(machine)), machine.keyboard));
  const std::uint64_t apic = add(madt(machine.cpus));
  Table list;
  list.u64(facp).u64(apic);
  area.replace(0, kRootBytes, root_pointer(add(described("XSDT", 1, list.bytes()))));
  std::vector<std::byte> bytes(area.size());
  std::ranges::transform(area, bytes.begin(),
                         [](char each) { return static_cast<std::byte>(each); });
  return bytes;
}

}  // namespace volt::pc
