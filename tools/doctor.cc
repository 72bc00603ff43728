// volt doctor: what this host and this user can do, what that means, and what to do about the rest.
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/context.h"
#include "tools/host_facts.h"
#include "tools/output.h"
#include "tools/size.h"

namespace volt::tools {
namespace {

constexpr std::uint64_t kFilesPerClone = 8;

struct Check {
  std::string name;
  bool ok;
  std::string found;
  std::string fix;  // empty where there is nothing to do
};

struct Diagnosis {
  std::vector<Check> checks;
  std::string kind = "none";
  std::string means;
  bool able = false;
};

const char* kvm_fix(const Error& error) {
  switch (error.sys_errno) {
    case EACCES:
      return "sudo usermod -aG kvm $USER, then log in again";
    case ENOENT:
      return "sudo modprobe kvm_intel (or kvm_amd); if this is a VM, enable nested virtualization";
    default:
      return "check the kernel's version and log (uname -r; dmesg | grep -i kvm)";
  }
}

// Runs guest code in both rings.
void examine_kvm(Diagnosis& diagnosis) {
  const Result<vmm::Kvm> kvm = vmm::Kvm::open();
  if (!kvm) {
    diagnosis.checks.push_back({"kvm", false, kvm.error().context, kvm_fix(kvm.error())});
    diagnosis.means =
        "no virtual machine can run here; stored snapshots can be listed and verified";
    return;
  }
  diagnosis.checks.push_back({"kvm", true, "/dev/kvm opens, API 12", ""});
  const Result<vmm::Probe> probe = probe_kvm(*kvm);
  if (!probe) {
    diagnosis.checks.push_back({"guest code", false, probe.error().context,
                                "report this, with the output of volt doctor --json"});
    diagnosis.means = "KVM is there, but guest code does not run as it must";
    return;
  }
  diagnosis.able = true;
  char found[96];
  std::snprintf(found, sizeof found, "a loop turn takes %.1f ns in ring 3, %.1f ns in ring 0",
                probe->ring3_ns, probe->ring0_ns);
  diagnosis.checks.push_back({"guest code", true, found, ""});
  if (probe->kind == vmm::HostKind::kNative) {
    diagnosis.kind = "native";
    diagnosis.means = "an ordinary host: guests run on the CPU in every ring";
  } else {
    diagnosis.kind = "ring3-only";
    diagnosis.means =
        "ring 3 runs on the CPU, ring 0 is emulated one instruction at a time: micro guests run at "
        "full speed, a Linux kernel would take minutes to boot";
  }
}

void examine_limits(Diagnosis& diagnosis) {
  const Result<> uffd = snapshot::uffd_usable();
  diagnosis.checks.push_back(
      uffd ? Check{"userfaultfd", true, "may handle faults that KVM takes: loader uffd works", ""}
           : Check{"userfaultfd", false, uffd.error().context + "; loaders map and copy still work",
                   "chmod or chgrp /dev/userfaultfd for this user, or sysctl "
                   "vm.unprivileged_userfaultfd=1"});
  rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  const std::uint64_t clones = files.rlim_cur / kFilesPerClone;
  diagnosis.checks.push_back({"open files", clones >= 64,
                              std::to_string(files.rlim_cur) + ", enough for about " +
                                  std::to_string(clones) + " clones in a process",
                              clones >= 64 ? "" : "ulimit -n 4096"});
  struct sysinfo info = {};
  ::sysinfo(&info);
  const std::uint64_t free = (std::uint64_t{info.freeram} + info.bufferram) * info.mem_unit;
  rlimit space = {};
  ::getrlimit(RLIMIT_AS, &space);
  const bool limited = space.rlim_cur != RLIM_INFINITY;
  diagnosis.checks.push_back(
      {"memory", !limited,
       human_size(free) + " free of " + human_size(std::uint64_t{info.totalram} * info.mem_unit) +
           (limited ? ", address space limited to " + human_size(space.rlim_cur) : ""),
       limited ? "ulimit -v unlimited" : ""});
}

// It is made when something is first written to it, so the nearest folder that is there decides.
void examine_store(Diagnosis& diagnosis) {
  constexpr const char* kFix = "export VOLT_DATA_DIR=DIRECTORY";
  const Result<snapshot::Store> store = open_store();
  if (!store) {
    diagnosis.checks.push_back({"data directory", false, store.error().context, kFix});
    return;
  }
  std::error_code ignored;
  std::filesystem::path there = std::filesystem::absolute(store->path(), ignored);
  while (!std::filesystem::exists(there, ignored) && there.has_relative_path()) {
    there = there.parent_path();
  }
  struct statvfs space = {};
  if (::access(there.c_str(), W_OK | X_OK) != 0 || ::statvfs(there.c_str(), &space) != 0) {
    diagnosis.checks.push_back({"data directory", false,
                                store->path() + ": this user may not write to " + there.string(),
                                kFix});
    return;
  }
  diagnosis.checks.push_back(
      {"data directory", true,
       store->path() + ", " + human_size(std::uint64_t{space.f_bavail} * space.f_frsize) + " free",
       ""});
}

std::string text_of(const Diagnosis& diagnosis) {
  std::string text;
  for (const Check& check : diagnosis.checks) {
    text += (check.ok ? "ok    " : "FAIL  ") + check.name + ": " + check.found + "\n";
    if (!check.fix.empty()) text += "      try: " + check.fix + "\n";
  }
  return text + "\nhost kind: " + diagnosis.kind + "\n" + diagnosis.means + "\n";
}

Result<int> diagnose(const Arguments& arguments) {
  Diagnosis diagnosis;
  examine_kvm(diagnosis);
  examine_limits(diagnosis);
  examine_store(diagnosis);
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const Check& check : diagnosis.checks) {
    checks.push_back(
        {{"name", check.name}, {"ok", check.ok}, {"found", check.found}, {"fix", check.fix}});
  }
  VOLT_TRY(arguments.json() ? print_json({{"schema", "volt.doctor/v1"},
                                          {"able", diagnosis.able},
                                          {"host_kind", diagnosis.kind},
                                          {"means", diagnosis.means},
                                          {"checks", std::move(checks)},
                                          {"host", host_facts_json()}})
                            : print_text(text_of(diagnosis)));
  return diagnosis.able ? 0 : exit_code(Code::kHostUnable);
}

}  // namespace

const Command kDoctor = {.path = "doctor",
                         .operands = "",
                         .summary = "tell what this host and this user can do, and what to fix",
                         .details =
                             "Runs a little guest code in both rings. Exits 6 if no guest can "
                             "run.\n",
                         .example = "volt doctor --json",
                         .options = {},
                         .least = 0,
                         .most = 0,
                         .run = diagnose};

}  // namespace volt::tools
