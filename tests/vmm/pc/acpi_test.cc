#include "vmm/pc/acpi.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <string>

#include "vmm/pc/aml.h"
#include "vmm/pc/layout.h"

namespace volt::pc {
namespace {

// The tables as a kernel finds them: from the root pointer on, by address.
class Tables {
 public:
  explicit Tables(const AcpiMachine& machine) : area_(acpi_tables(machine)) {
    EXPECT_EQ(text(0, 8), "RSD PTR ");
    EXPECT_EQ(sum(0, 20), 0u);
    EXPECT_EQ(sum(0, 36), 0u);
    const std::uint64_t xsdt = keep(value<std::uint64_t>(24));
    for (std::uint64_t at = xsdt + 36; at < xsdt + length(xsdt); at += 8) {
      keep(value<std::uint64_t>(at));
    }
    keep(value<std::uint64_t>(found_.at("FACP") + 140));
  }

  std::uint64_t operator[](const std::string& name) const { return found_.at(name); }
  bool has(const std::string& name) const { return found_.contains(name); }
  std::uint32_t length(std::uint64_t at) const { return value<std::uint32_t>(at + 4); }
  std::string text(std::uint64_t at, std::size_t bytes) const {
    return std::string(reinterpret_cast<const char*>(area_.data()) + at, bytes);
  }
  template <typename T>
  T value(std::uint64_t at) const {
    T result = {};
    EXPECT_LE(at + sizeof result, area_.size());
    if (at + sizeof result <= area_.size()) std::memcpy(&result, area_.data() + at, sizeof result);
    return result;
  }
  std::size_t bytes() const { return area_.size(); }

 private:
  unsigned sum(std::uint64_t at, std::uint64_t bytes) const {
    const auto first = area_.begin() + static_cast<std::ptrdiff_t>(at);
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(bytes), 0U,
                           [](unsigned so_far, std::byte each) {
                             return so_far + std::to_integer<unsigned>(each);
                           }) &
           0xFF;
  }
  // By its offset from kAcpi.
  std::uint64_t keep(std::uint64_t address) {
    const std::uint64_t at = address - kAcpi;
    EXPECT_EQ(sum(at, length(at)), 0u) << text(at, 4);
    found_[text(at, 4)] = at;
    return at;
  }

  std::vector<std::byte> area_;
  std::map<std::string, std::uint64_t> found_;
};

TEST(AcpiTest, EveryTableIsFoundFromTheRootAndSumsToZero) {
  const Tables tables({.cpus = 16, .virtio_devices = kMaxVirtio, .keyboard = true});
  for (const char* const name : {"XSDT", "FACP", "APIC", "DSDT"}) EXPECT_TRUE(tables.has(name));
  EXPECT_LT(tables.bytes(), kGeneration - kAcpi);
}

TEST(AcpiTest, TheMachineIsAHardwareReducedOneThatResetsAndSleepsByPorts) {
  const Tables tables({});
  const std::uint64_t facp = tables["FACP"];
  EXPECT_EQ(tables.length(facp), 276u);
  EXPECT_EQ(tables.value<std::uint32_t>(facp + 112), 1u << 20 | 1u << 10 | 1u << 5 | 1u << 4);
  EXPECT_EQ(tables.value<std::uint64_t>(facp + 120), 0x64u) << "reset register";
  EXPECT_EQ(tables.value<std::uint8_t>(facp + 128), 0xFEu);
  EXPECT_EQ(tables.value<std::uint64_t>(facp + 248), kPowerPort) << "sleep control";
  EXPECT_EQ(tables.value<std::uint64_t>(facp + 260), kPowerPort + 1u) << "sleep status";
  EXPECT_EQ(tables.value<std::uint16_t>(facp + 109) & 2, 0) << "no keyboard to look for";
  const Tables with({.keyboard = true});
  EXPECT_EQ(with.value<std::uint16_t>(with["FACP"] + 109) & 2, 2);
}

TEST(AcpiTest, EveryCpuAndTheIoApicAreListed) {
  const Tables tables({.cpus = 5});
  const std::uint64_t apic = tables["APIC"];
  EXPECT_EQ(tables.length(apic), 36u + 8 + 5 * 8 + 12);
  for (std::uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(tables.value<std::uint32_t>(apic + 44 + 8 * i), 0x0000'0800u | i << 16 | i << 24);
  }
  EXPECT_EQ(tables.value<std::uint32_t>(apic + 44 + 40 + 4), kIoApic);
}

TEST(AcpiTest, DevicesAreDescribed) {
  const Tables tables({.virtio_devices = 2});
  const std::string dsdt = tables.text(tables["DSDT"], tables.length(tables["DSDT"]));
  for (const char* const word :
       {"VIO0", "VIO1", "LNRO0005", "COM1", "VM_Gen_Counter", "_EVT", "ACPI0013", "PWRB", "_S5_"}) {
    EXPECT_NE(dsdt.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(dsdt.find("VIO2"), std::string::npos);
}

TEST(AmlTest, LengthsCountThemselves) {
  EXPECT_EQ(aml::scope("A", std::string(58, 'x')).size(), 64u);
  EXPECT_EQ(aml::scope("A", std::string(58, 'x'))[1], '\x3F');
  const std::string longer = aml::scope("A", std::string(59, 'x'));
  EXPECT_EQ(longer.substr(1, 2), (std::string{'\x41', '\x04'}));
  const std::string longest = aml::scope("A", std::string(5000, 'x'));
  const auto byte = [&longest](std::size_t at) {
    return std::size_t{static_cast<unsigned char>(longest[at])};
  };
  const std::size_t length = (byte(1) & 0xF) | byte(2) << 4 | byte(3) << 12;
  EXPECT_EQ(length, longest.size() - 1);
}

TEST(AmlTest, SmallThingsAreAsTheSpecificationSays) {
  EXPECT_EQ(aml::integer(0), std::string(1, '\0'));
  EXPECT_EQ(aml::integer(0x1234), (std::string{'\x0B', '\x34', '\x12'}));
  EXPECT_EQ(aml::eisa_id("PNP0501"), (std::string{'\x0C', '\x41', '\xD0', '\x05', '\x01'}));
  EXPECT_EQ(aml::path("\\_SB.PWRB"), "\\\x2E_SB_PWRB");
  EXPECT_EQ(aml::text("x"), (std::string{'\x0D', 'x', '\0'}));
}

}  // namespace
}  // namespace volt::pc
