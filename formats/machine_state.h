// The machine state's codec: bytes in, checked message out. Fields: machine_state.proto.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/machine_state.pb.h"
#include "vmm/os/error.h"

namespace volt::formats {

using v1::MachineState;

inline constexpr std::size_t kMaxVcpus = 64;
inline constexpr std::size_t kMaxMsrs = 1024;
inline constexpr std::size_t kMaxXcrs = 16;
inline constexpr std::size_t kMaxCpuidEntries = 256;
inline constexpr std::size_t kMinXsaveBytes = 576;
inline constexpr std::size_t kMaxXsaveBytes = 64 << 10;
inline constexpr std::size_t kLapicBytes = 1024;
inline constexpr std::size_t kRedirections = 24;
inline constexpr std::size_t kMaxVirtio = 8;
inline constexpr std::size_t kMaxVirtioQueues = 16;

// Every rule that machine_state.proto states, kCorrupt naming vCPU and field otherwise.
Result<> check(const MachineState& state);

// The file: head and body. The state must pass check().
std::vector<std::byte> encode(const MachineState& state);
// Fields this build does not know (a later minor's) are carried along unread.
Result<MachineState> decode_machine_state(std::span<const std::byte> file);

}  // namespace volt::formats
