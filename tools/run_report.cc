#include "tools/run_report.h"

#include <time.h>

#include <nlohmann/json.hpp>

#include "tools/restore_report.h"
#include "vmm/identity.h"
#include "vmm/laps.h"

namespace volt::tools {
namespace {

double microseconds(std::uint64_t ns) {
  return tenth(static_cast<double>(ns) / 1e3);
}

nlohmann::ordered_json opened_json(const OpenedKvm& opened) {
  return {{"process", microseconds(opened.process_ns)}, {"kvm", microseconds(opened.kvm_ns)}};
}

// What opening took belongs to it.
double total_of(const OpenedKvm& opened, std::uint64_t guest_ns) {
  return microseconds(opened.process_ns + opened.kvm_ns + guest_ns);
}

}  // namespace

std::uint64_t process_begun_ns() {
  timespec used;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  const auto used_ns = static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
                       static_cast<std::uint64_t>(used.tv_nsec);
  return vmm::monotonic_clock_ns() - used_ns;
}

Result<OpenedKvm> open_kvm(std::uint64_t begun_ns) {
  const std::uint64_t process_ns = vmm::monotonic_clock_ns() - begun_ns;
  vmm::Laps laps;
  vmm::Kvm kvm = VOLT_TRY(vmm::Kvm::open());
  return OpenedKvm{std::move(kvm), begun_ns, process_ns, laps.lap()};
}

nlohmann::ordered_json phases_json(const OpenedKvm& opened, const pc::LinuxBootPhases& phases) {
  nlohmann::ordered_json json = opened_json(opened);
  const std::pair<const char*, std::uint64_t> parts[] = {
      {"kernel", phases.kernel_us},
      {"load", phases.load_us},
      {"vm", phases.pc.vm_us},
      {"memory", phases.pc.memory_us},
      {"devices", phases.pc.devices_us},
      {"cpuid", phases.pc.cpuid_us},
      {"cpus", phases.pc.cpus_us},
      {"first_exit", phases.first_exit_us},
      {"userspace", phases.userspace_us},
  };
  for (const auto& [name, us] : parts) json[name] = us;
  if (phases.userspace_us == 0) json["userspace"] = nullptr;  // nobody said so
  json["total"] = total_of(opened, phases.total_us() * 1000);
  return json;
}

nlohmann::ordered_json phases_json(const OpenedKvm& opened, const snapshot::RestorePhases& phases) {
  nlohmann::ordered_json json = opened_json(opened);
  json.update(phases_json(phases));
  json["total"] = total_of(opened, phases.total_ns());
  return json;
}

std::string phases_line(const nlohmann::ordered_json& phases) {
  std::string line;
  for (const auto& [name, us] : phases.items()) {
    if (!us.is_null()) line += (line.empty() ? "" : ", ") + name + " " + us.dump();
  }
  return line + " us";
}

nlohmann::ordered_json run_json(const nlohmann::ordered_json& guest, nlohmann::ordered_json phases,
                                const OpenedKvm& opened, const std::optional<GuestExit>& exit) {
  nlohmann::ordered_json json = {{"schema", "volt.run/v1"}};
  json.update(guest);
  json["exit_code"] = nullptr;
  json["phases_us"] = std::move(phases);
  if (!exit) return json;
  const std::uint64_t first_byte_ns =
      exit->first_byte_ns == 0 ? 0 : exit->first_byte_ns - opened.begun_ns;
  json["exit_code"] = exit->code;
  json["first_byte_us"] = first_byte_ns / 1000;
  return json;
}

}  // namespace volt::tools
