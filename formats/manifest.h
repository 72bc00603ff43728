// The manifest's codec: bytes in, checked message out. What each field means: manifest.proto.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/manifest.pb.h"
#include "vmm/os/error.h"

namespace volt::formats {

using v1::Manifest;

inline constexpr std::size_t kMaxRegions = 64;
inline constexpr std::size_t kMaxGaps = 8;              // zero runs a manifest's extents leave out
inline constexpr std::uint64_t kMinGapBytes = 2 << 20;  // and their least size
inline constexpr std::uint64_t kMaxMemoryBytes = std::uint64_t{1} << 46;
inline constexpr std::uint64_t kEndOfAddresses = std::uint64_t{1} << 52;  // guest-physical
inline constexpr std::uint64_t kMinUnitBytes = 4 << 10;
inline constexpr std::uint64_t kMaxUnitBytes = 2 << 20;
inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 40;  // of state and index
inline constexpr std::size_t kMaxLabels = 64;
inline constexpr std::size_t kMaxStringBytes = 4096;
inline constexpr std::size_t kMaxFeatures = 64;
inline constexpr std::size_t kMaxCalls = 1024;
inline constexpr std::size_t kMaxCpuFeatures = 1024;
inline constexpr std::size_t kMaxCapabilities = 1024;
inline constexpr std::size_t kMaxNeededMsrs = 1024;

// Every rule that manifest.proto states, kCorrupt naming the field otherwise; a required feature
// this build does not know is kUnsupported and named.
Result<> check(const Manifest& manifest);

// The file: head and body. The manifest must pass check().
std::vector<std::byte> encode(const Manifest& manifest);
// Fields this build does not know (a later minor's) are carried along unread.
Result<Manifest> decode_manifest(std::span<const std::byte> file);

}  // namespace volt::formats
