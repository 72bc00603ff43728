// Firecracker's hand-shake: one message, a JSON array of memory regions, and one userfaultfd. It
// has neither length nor end; nothing is answered. README.md says what is tolerated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "uffd/pager_protocol.h"
#include "vmm/os/error.h"

namespace volt::uffd::firecracker {

inline constexpr std::size_t kMaxBytes = 64 << 10;  // of a hand-shake that we read
// Of one that we send: handlers in use read it into a buffer of this size.
inline constexpr std::size_t kMaxSentBytes = 1024;

// `offset` of a region counts in the memory file.
std::string encode(std::span<const pager::WireView> regions);

// nullopt: more has to come. kCorrupt or kUnsupported names the field.
Result<std::optional<std::vector<pager::WireView>>> decode(std::span<const std::byte> bytes);

}  // namespace volt::uffd::firecracker
