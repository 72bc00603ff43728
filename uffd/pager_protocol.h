// What a VM process and its pager say to each other over a unix stream socket, as bytes and as
// structs. Pure: no descriptor is touched here. README.md has it byte by byte.
//
//   VM     Hello ->        which image, and how its pages are shown
//   pager        <- Welcome  (descriptors: documents, image) or Refused
//   VM     Attach ->       where it shows the image (descriptor: its userfaultfd)
//   pager        <- Attached or Refused
//   pager        <- Lost, Close: of units that cannot be had, at any time
//   VM     Ping ->         at any time, when it has heard nothing for long
//   pager        <- Pong
//   VM     Forget ->       from Forgotten on nothing touches its addresses
//   pager        <- Forgotten
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "uffd/clone_options.h"
#include "vmm/os/error.h"

namespace volt::uffd::pager {

inline constexpr std::size_t kHeadBytes = 16;
inline constexpr std::size_t kMaxBodyBytes = 16 << 10;
inline constexpr std::size_t kMaxFds = 2;
inline constexpr std::size_t kMaxViews = 256;
inline constexpr std::size_t kMaxImageName = 512;
inline constexpr std::size_t kMaxText = 4096;

// How a VM's memory shows the image.
enum class Mode : std::uint32_t {
  kShared = 1,    // private mapping of the image, MISSING; only for VMs of the pager's own user
  kIsolated = 2,  // the same, MISSING and MINOR
  kCopied = 3,  // any memory registered MISSING; also a VM whose pager died, and its image with it
};

struct Hello {
  Mode mode;
  std::string image;
  bool operator==(const Hello&) const = default;
};
struct Welcome {
  std::uint64_t image_bytes;
  std::uint64_t unit_bytes;
  // The documents are two, one behind the other in their memfd: this many bytes each.
  std::array<std::uint64_t, 2> document_bytes;
  std::string image;  // its name for good, whatever was asked for
  bool operator==(const Welcome&) const = default;
};
struct Refused {
  Code code;
  std::string why;
  bool operator==(const Refused&) const = default;
};
struct WireView {
  std::uint64_t address;
  std::uint64_t bytes;
  std::uint64_t image_offset;
  bool operator==(const WireView&) const = default;
};
struct Attach {
  std::vector<WireView> views;
  bool operator==(const Attach&) const = default;
};
struct Attached {
  bool operator==(const Attached&) const = default;
};
// The unit cannot be had; sent before anybody is stopped for it.
struct Lost {
  std::uint64_t unit;
  std::string why;
  bool operator==(const Lost&) const = default;
};
// The pager cannot poison it: the VM makes the unit's range inaccessible, then wakes it.
struct Close {
  std::uint64_t unit;
  bool operator==(const Close&) const = default;
};
struct Forget {
  bool operator==(const Forget&) const = default;
};
struct Forgotten {
  bool operator==(const Forgotten&) const = default;
};
// Instead of a Hello: counters, as JSON.
struct AskStats {
  bool operator==(const AskStats&) const = default;
};
struct Stats {
  std::string json;
  bool operator==(const Stats&) const = default;
};

// From a VM that is served, when it has heard nothing for long: the pager says that it lives.
struct Ping {
  bool operator==(const Ping&) const = default;
};
struct Pong {
  bool operator==(const Pong&) const = default;
};

using Message = std::variant<Hello, Welcome, Refused, Attach, Attached, Lost, Close, Forget,
                             Forgotten, AskStats, Stats, Ping, Pong>;

struct Head {
  std::size_t type;  // index in Message
  std::size_t body_bytes;
  std::size_t fds;
};

// Texts that are too long are cut.
std::vector<std::byte> encode(const Message& message, std::size_t fds);
// kCorrupt names the field. `bytes` are at least kHeadBytes.
Result<Head> decode_head(std::span<const std::byte> bytes);
Result<Message> decode_body(const Head& head, std::span<const std::byte> body);

// Views as a fault server takes them; kInvalid where they overlap, leave the image, or are not made
// of whole units.
Result<std::vector<View>> checked_views(std::span<const WireView> views, std::uint64_t image_bytes,
                                        std::uint64_t unit_bytes);

}  // namespace volt::uffd::pager
