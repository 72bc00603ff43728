#include "tools/host_facts.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/guest/micro_image.h"

namespace volt::tools {
namespace {

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

nlohmann::ordered_json host_facts_json() {
  utsname name = {};
  ::uname(&name);
  struct sysinfo info = {};
  ::sysinfo(&info);
  return {{"cpu", cpu_model()},
          {"cpus", ::sysconf(_SC_NPROCESSORS_ONLN)},
          {"memory_bytes", std::uint64_t{info.totalram} * info.mem_unit},
          {"kernel", name.release},
          {"volt", VOLT_VERSION}};
}

Result<vmm::Probe> probe_kvm(const vmm::Kvm& kvm) {
  const vmm::GuestImage image = VOLT_TRY(vmm::GuestImage::parse(micro_image()));
  return vmm::probe_host(kvm, image);
}

Error with_hosts_part(const vmm::Kvm& kvm, Error what) {
  if (what.code != Code::kDeadline) return what;
  const Result<vmm::Probe> probe = probe_kvm(kvm);
  const bool emulated = probe && probe->kind == vmm::HostKind::kRing3Only;
  return emulated ? within(kKernelsEmulated, std::move(what)) : what;
}

}  // namespace volt::tools
