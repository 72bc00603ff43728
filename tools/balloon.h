// What a Linux guest gives back of its memory: because it was asked to (--balloon), and what it has
// freed by itself, which it tells some seconds later.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "tools/options.h"
#include "vmm/interrupt.h"
#include "vmm/pc/linux_machine.h"

namespace volt::tools {

inline constexpr Option kBalloonOption = {
    "--balloon", "SIZE", "memory that the guest is to give back first, in steps of 4K"};

struct Given {
  std::uint64_t asked_bytes;
  std::uint64_t given_bytes;  // what the guest says
};
// Nothing where --balloon was not given. Asks a running guest, and waits for as long as it goes on
// giving (or taking back). kInvalid if that is as much as it has.
Result<std::optional<Given>> fill_balloon(const Arguments& arguments, pc::LinuxMachine& machine,
                                          vmm::Deadline deadline);
// Asks only: of a guest that does not say when it has a driver.
Result<std::optional<Given>> ask_for_balloon(const Arguments& arguments, pc::LinuxMachine& machine);

inline constexpr Option kSettleOption = {
    "--settle", "SECONDS", "how long at most to wait for what a Linux guest has freed (10)"};
// Until the guest has told of the pages that it has freed: Linux does so 2 s later, in blocks of
// 2 MiB, and goes on until it has told all. At most --settle.
Result<> wait_for_freed_pages(const Arguments& arguments, pc::LinuxMachine& machine,
                              vmm::Deadline deadline);

// null, or {asked_bytes, given_bytes}.
nlohmann::ordered_json balloon_json(const std::optional<Given>& given);

}  // namespace volt::tools
