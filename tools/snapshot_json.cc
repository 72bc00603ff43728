#include "tools/snapshot_json.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/context.h"

namespace volt::tools {
namespace {

using nlohmann::ordered_json;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

ordered_json memory_json(const formats::v1::Memory& memory) {
  ordered_json regions = ordered_json::array(), data = ordered_json::array();
  for (const auto& region : memory.regions()) {
    regions.push_back({{"guest_base", hex(region.guest_base())},
                       {"size_bytes", region.size_bytes()},
                       {"file_offset", region.file_offset()}});
  }
  for (const auto& extent : memory.data()) {
    data.push_back({{"file_offset", extent.file_offset()}, {"size_bytes", extent.size_bytes()}});
  }
  return {{"digest", digest_text(bytes_of(memory.digest()))},
          {"unit_bytes", memory.unit_bytes()},
          {"regions", std::move(regions)},
          {"data", std::move(data)}};
}

ordered_json cpu_json(const formats::v1::Vcpu& cpu) {
  return {{"rip", hex(cpu.general().rip())},   {"rsp", hex(cpu.general().rsp())},
          {"cr3", hex(cpu.special().cr3())},   {"efer", hex(cpu.special().efer())},
          {"xsave_bytes", cpu.xsave().size()}, {"msrs", cpu.msrs_size()},
          {"cpuid_entries", cpu.cpuid_size()}};
}

ordered_json compatibility_json(const formats::v1::Compatibility& record) {
  ordered_json features = ordered_json::array();
  for (const std::string& feature : record.cpu_features()) features.push_back(feature);
  return {{"kvm_vendor", record.kvm_vendor()},
          {"cpu_vendor", record.cpu_vendor()},
          {"cpu_signature", hex(record.cpu_signature())},
          {"kernel_release", record.kernel_release()},
          {"tsc_khz", record.tsc_khz()},
          {"cpu_features", std::move(features)},
          {"exact_state", record.exact_state()}};
}

ordered_json guest_json(const formats::v1::Guest& guest) {
  ordered_json calls = ordered_json::array();
  for (const std::string& call : guest.calls()) calls.push_back(call);
  ordered_json json = {{"kind", guest.kind()},
                       {"workload", guest.workload()},
                       {"seed", guest.seed()},
                       {"working_set_bytes", guest.working_set_bytes()},
                       {"working_set_checksum", hex(guest.working_set_checksum())},
                       {"image", digest_text(bytes_of(guest.image_sha256()))},
                       {"calls", std::move(calls)}};
  if (!guest.cpu_template().empty()) json["cpu_template"] = guest.cpu_template();
  if (guest.agent_protocol() != 0) json["agent_protocol"] = guest.agent_protocol();
  return json;
}

}  // namespace

ordered_json snapshot_json(const snapshot::OpenedSnapshot& opened,
                           const snapshot::Reference& reference, const snapshot::Usage& usage) {
  const formats::Manifest& manifest = opened.manifest();
  ordered_json labels = ordered_json::object();
  for (const auto& label : manifest.labels()) labels[label.key()] = label.value();
  return {{"name", reference.text()},
          {"digest", digest_text(opened.digest())},
          {"workload", manifest.guest().workload()},
          {"storage", opened.is_raw() ? "raw" : "packed"},
          {"stored_bytes", usage.stored_bytes},
          {"shared_bytes", usage.shared_bytes},
          {"unique_bytes", usage.unique_bytes()},
          {"data_bytes", manifest.memory().stored_bytes()},
          {"apparent_bytes", opened.memory_bytes()},
          {"created_unix_ns", manifest.created_unix_ns()},
          {"boot_us", manifest.boot_us()},
          {"parent", manifest.parent().empty()
                         ? ordered_json(nullptr)
                         : ordered_json(digest_text(bytes_of(manifest.parent())))},
          {"labels", std::move(labels)}};
}

ordered_json inspect_json(const snapshot::OpenedSnapshot& opened,
                          const snapshot::Reference& reference, const snapshot::Usage& usage) {
  ordered_json json = snapshot_json(opened, reference, usage);
  const formats::Manifest& manifest = opened.manifest();
  json["created_by"] = manifest.created_by();
  json["guest"] = guest_json(manifest.guest());
  json["memory"] = memory_json(manifest.memory());
  json["files"] = {{"state_bytes", manifest.state().size_bytes()},
                   {"index_bytes", manifest.index().size_bytes()},
                   {"index_entries", opened.index().entry_count()}};
  json["compatibility"] = compatibility_json(manifest.compatibility());
  json["cpus"] = ordered_json::array();
  for (const auto& cpu : opened.state().vcpus()) json["cpus"].push_back(cpu_json(cpu));
  if (opened.state().has_resume()) {
    json["resume"] = {{"entry", hex(opened.state().resume().entry())},
                      {"stack_top", hex(opened.state().resume().stack_top())}};
  }
  return json;
}

}  // namespace volt::tools
