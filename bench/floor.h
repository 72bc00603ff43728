// The floor: the least a program can do to restore or boot Volt's micro guest, with raw system
// calls and no code of the project. Every promise about speed is a ratio to it, taken in the same
// run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace volt_floor {

struct Step {
  const char* name;
  std::uint64_t ns;
};

struct Timing {
  std::vector<Step> steps;
  std::uint64_t total_ns = 0;
  std::uint64_t slots_ns = 0;  // the part of it that KVM takes to register guest RAM
  std::uint64_t checksum = 0;  // the guest's answer
};

// What a restore answers first: a function of the guest and its arguments.
struct Request {
  std::uint32_t function = 0;
  std::span<const std::byte> arguments;
};

// A memory slot: so many bytes of RAM at a guest-physical address, from this offset of the memory
// file.
struct Slot {
  std::uint64_t guest_base = 0;
  std::uint64_t file_offset = 0;
  std::uint64_t bytes = 0;
};

// The slots that cover all of a guest's RAM.
std::vector<Slot> whole_ram(std::uint64_t ram_bytes);

// Each dies with a message where a step fails: it is a measuring device, not a product.

// A new VM over `memory_file` (raw guest RAM: below 3 GiB first, the rest from 4 GiB) with these
// slots, to the answer.
Timing fresh(int kvm, const char* memory_file, std::uint64_t ram_bytes, std::span<const Slot> slots,
             const Request& request);

// The same with VM, vCPU and memory slots made before the clock starts: what a pool could reach.
Timing existing(int kvm, const char* memory_file, std::uint64_t ram_bytes, const Request& request);

// From the guest's ELF file to its ready point.
Timing boot(int kvm, std::span<const std::byte> elf, std::uint64_t ram_bytes,
            std::uint32_t workload);

// A new VM as fresh() makes it, which answers these requests and then stays for as long as the
// process lives: what such a guest costs. Their checksums.
std::vector<std::uint64_t> stay(int kvm, const char* memory_file, std::uint64_t ram_bytes,
                                std::span<const Slot> slots, std::span<const Request> requests);

// The bytes the guest answered in the last run, behind the reply's head.
std::string last_reply();

}  // namespace volt_floor
