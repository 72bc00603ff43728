#include "tools/balloon.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/size.h"

namespace volt::tools {
namespace {

using virtio::Balloon;

// A driver that finds no page tries again after 200 ms; one on a busy host is slow. One that gives
// less than a step in all that time has no more to spare: it may go on taking and giving for ever.
constexpr std::uint64_t kPatienceMs = 5'000;
constexpr std::uint32_t kStepPages = (1 << 20) / Balloon::kPageBytes;
// Longer than Linux waits between two rounds of telling what is free.
constexpr std::uint64_t kStillMs = 2'500;
constexpr std::uint64_t kMostSettleSeconds = 3'600;

Result<std::uint64_t> size_asked(const Arguments& arguments, const pc::LinuxMachine& machine) {
  const std::uint64_t bytes = VOLT_TRY(arguments.size("--balloon", 0));
  if (bytes % Balloon::kPageBytes != 0) {
    return fail(Code::kInvalid, "--balloon: a multiple of 4 KiB is expected");
  }
  const std::uint64_t ram = machine.memory().total_bytes();
  if (bytes >= ram) {
    return fail(Code::kInvalid, "--balloon " + human_size(bytes) + ": the guest has no more than " +
                                    human_size(ram));
  }
  return bytes;
}

void set_target(Balloon& balloon, std::uint64_t bytes) {
  balloon.set_target(static_cast<std::uint32_t>(bytes / Balloon::kPageBytes));
}

}  // namespace

Result<std::optional<Given>> ask_for_balloon(const Arguments& arguments,
                                             pc::LinuxMachine& machine) {
  if (!arguments.has("--balloon")) return std::nullopt;
  const std::uint64_t bytes = VOLT_TRY(size_asked(arguments, machine));
  set_target(machine.balloon(), bytes);
  return Given{.asked_bytes = bytes, .given_bytes = 0};
}

Result<std::optional<Given>> fill_balloon(const Arguments& arguments, pc::LinuxMachine& machine,
                                          vmm::Deadline deadline) {
  if (!arguments.has("--balloon")) return std::nullopt;
  const std::uint64_t bytes = VOLT_TRY(size_asked(arguments, machine));
  Balloon& balloon = machine.balloon();
  set_target(balloon, bytes);
  virtio::BalloonState state;
  vmm::Deadline patience = vmm::Deadline::in_ms(kPatienceMs);
  for (std::uint32_t nearest = UINT32_MAX;;) {
    const std::uint64_t seen = balloon.changes();
    state = balloon.save();
    if (state.actual_pages == state.target_pages) break;
    if (deadline.passed()) return fail(Code::kDeadline, "--balloon: the guest is not done in time");
    const auto [few, many] = std::minmax(state.actual_pages, state.target_pages);
    if (many - few <= nearest - std::min(nearest, kStepPages)) {
      nearest = many - few;
      patience = vmm::Deadline::in_ms(kPatienceMs);
    }
    if (patience.passed()) break;
    vmm::Deadline next = patience;
    next.at_ns = std::min(next.at_ns, deadline.at_ns);
    static_cast<void>(VOLT_TRY(balloon.wait_for_change(seen, next)));
  }
  const Given given = {bytes, std::uint64_t{state.actual_pages} * Balloon::kPageBytes};
  if (given.given_bytes < bytes) {
    set_target(balloon, given.given_bytes);  // or its driver goes on taking all that is freed
    std::fprintf(stderr, "--balloon %s: the guest gave %s\n", human_size(bytes).c_str(),
                 human_size(given.given_bytes).c_str());
  }
  return given;
}

Result<> wait_for_freed_pages(const Arguments& arguments, pc::LinuxMachine& machine,
                              vmm::Deadline deadline) {
  const std::uint64_t most_seconds = VOLT_TRY(arguments.number("--settle", 10));
  if (most_seconds > kMostSettleSeconds) return fail(Code::kInvalid, "--settle: 0 to 3600 seconds");
  vmm::Deadline last = vmm::Deadline::in_ms(most_seconds * 1000);
  last.at_ns = std::min(last.at_ns, deadline.at_ns);
  Balloon& balloon = machine.balloon();
  for (bool goes_on = true; goes_on && !last.passed();) {
    vmm::Deadline next = vmm::Deadline::in_ms(kStillMs);
    next.at_ns = std::min(next.at_ns, last.at_ns);
    goes_on = VOLT_TRY(balloon.wait_for_change(balloon.changes(), next));
  }
  return {};
}

nlohmann::ordered_json balloon_json(const std::optional<Given>& given) {
  if (!given) return nullptr;
  return {{"asked_bytes", given->asked_bytes}, {"given_bytes", given->given_bytes}};
}

}  // namespace volt::tools
