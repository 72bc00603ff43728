// Where things are in a Linux guest's physical memory. RAM leaves the hole of vmm/guest_memory.h
// below 4 GiB; devices are in that hole.
#pragma once

#include <cstdint>

namespace volt::pc {

// ---- Low memory, below 640 KiB: what Volt leaves for the kernel's first instructions.
inline constexpr std::uint64_t kGdt = 0x500;
inline constexpr std::uint64_t kStartInfo = 0x6000;   // PVH: start_info, module list, memory map
inline constexpr std::uint64_t kZeroPage = 0x7000;    // Linux protocol: boot_params
inline constexpr std::uint64_t kBootStack = 0x8FF0;   // grows down
inline constexpr std::uint64_t kPageTables = 0x9000;  // PML4, PDPT, and PDs up to kPageTablesEnd
inline constexpr std::uint64_t kPageTablesEnd = 0xF000;
inline constexpr std::uint64_t kCommandLine = 0x2'0000;
inline constexpr std::uint64_t kCommandLineBytes = 0x1'0000;
inline constexpr std::uint64_t kLowMemoryEnd = 0x9'FC00;  // what e820 says is usable below 1 MiB

// ---- ACPI tables: where kernels look for the root pointer. Reserved in the memory map, as is what
// a restored guest finds changed: VMGenID's 16 bytes.
inline constexpr std::uint64_t kAcpi = 0xE'0000;
inline constexpr std::uint64_t kAcpiBytes = 0x2'0000;
inline constexpr std::uint64_t kGeneration = 0xF'F000;

inline constexpr std::uint64_t kHighMemory = 0x10'0000;

// ---- The hole: devices. Each virtio device has its own page and its own interrupt.
inline constexpr std::uint64_t kVirtioBase = 0xE000'0000;
inline constexpr std::uint64_t kVirtioBytes = 0x1000;
inline constexpr std::uint32_t kMaxVirtio = 8;
inline constexpr std::uint32_t kFirstVirtioInterrupt = 5;
inline constexpr std::uint64_t kIoApic = 0xFEC0'0000;
inline constexpr std::uint64_t kLocalApic = 0xFEE0'0000;
inline constexpr std::uint64_t kIdentityMap = 0xFFFB'C000;  // for VMX without unrestricted guests
inline constexpr std::uint64_t kTss = 0xFFFB'D000;

// ---- Ports.
inline constexpr std::uint16_t kKeyboardPort = 0x60;  // and 0x64: of an i8042 only the reset
inline constexpr std::uint16_t kSerialPort = 0x3F8;
inline constexpr std::uint16_t kPowerPort = 0x600;  // see power.h

inline constexpr std::uint32_t kSerialInterrupt = 4;
inline constexpr std::uint32_t kEventInterrupt = 13;  // power button, new generation
inline constexpr std::uint32_t kIoApicPins = 24;

inline constexpr std::uint32_t kMaxCpus = 16;

}  // namespace volt::pc
