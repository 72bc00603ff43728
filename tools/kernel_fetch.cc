#include "tools/kernel_fetch.h"

#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "tools/kernel_store.h"
#include "tools/program.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

constexpr char kLatest[] = "linux-image-cloud-amd64";  // depends on today's
constexpr std::string_view kPrefix = "linux-image-";

// A program of the package manager's. That it is missing is a matter of this host.
Result<ProgramOutput> run_packager(const std::vector<std::string>& words,
                                   const std::string& directory) {
  Result<ProgramOutput> output = run_program(words, directory);
  if (!output && output.error().code == Code::kNotFound) {
    return fail(Code::kHostUnable,
                "no " + words[0] + " here: only Debian's packages can be fetched");
  }
  return output;
}

std::unexpected<Error> no_package(const std::string& package, const std::string& why) {
  return fail(Code::kNotFound, "no package " + package + (why.empty() ? "" : ": " + why));
}

// What a line of `apt-cache depends` says: "  Depends: linux-image-6.1.0-56-cloud-amd64".
Result<std::string> latest_version() {
  const ProgramOutput output = VOLT_TRY(run_packager({"apt-cache", "depends", kLatest}, "/"));
  if (output.status != 0) return no_package(kLatest, last_line(output.text));
  constexpr std::string_view kDepends = "Depends: linux-image-";
  const std::size_t at = output.text.find(kDepends);
  if (at == output.text.npos) return no_package(kLatest, "it depends on no kernel");
  const std::size_t start = at + kDepends.size();
  const std::size_t end = std::min(output.text.find_first_of(" \n", start), output.text.size());
  return output.text.substr(start, end - start);
}

Result<std::string> downloaded_file(const std::string& directory) {
  for (std::string& entry : VOLT_TRY(directory_entries(directory))) {
    if (entry.ends_with(".deb")) return std::move(entry);
  }
  return fail(Code::kSystem, "apt-get download left no package");
}

}  // namespace

Result<std::string> resolve_kernel_version(const std::string& wanted) {
  std::string version = wanted;
  if (wanted == "latest") version = VOLT_TRY(latest_version());
  if (version.starts_with(kPrefix)) version.erase(0, kPrefix.size());
  VOLT_TRY(check_kernel_name(version));
  return version;
}

Result<FetchedKernel> fetch_kernel(const std::string& version, const std::string& directory) {
  const std::string package = std::string(kPrefix) + version;
  const ProgramOutput got =
      VOLT_TRY(run_packager({"apt-get", "download", "-q", package}, directory));
  if (got.status != 0) {
    const bool unknown = got.text.contains("Unable to locate") || got.text.contains("No candidate");
    if (unknown) return no_package(package, "apt knows none; apt-get update?");
    return fail(Code::kSystem, "apt-get download " + package + ": " + last_line(got.text));
  }
  const std::string file = VOLT_TRY(downloaded_file(directory));
  const std::string tree = directory + "/tree";
  const ProgramOutput unpacked = VOLT_TRY(run_packager({"dpkg-deb", "-x", file, tree}, directory));
  if (unpacked.status != 0) {
    return fail(Code::kSystem, "dpkg-deb -x " + file + ": " + last_line(unpacked.text));
  }
  // Where /lib is a link to /usr/lib, packages may have either.
  std::string modules = tree + "/lib/modules/" + version;
  if (::access(modules.c_str(), F_OK) != 0) modules = tree + "/usr/lib/modules/" + version;
  return FetchedKernel{tree + "/boot/vmlinuz-" + version, modules, file};
}

}  // namespace volt::tools
