#include "tools/bench_scratch.h"

#include <unistd.h>

#include <cstdlib>

#include "snapshot/capture.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/storage_options.h"

namespace volt::tools {

Result<BenchScratch> BenchScratch::make(const Arguments& arguments, const vmm::Kvm& kvm) {
  const char* base = std::getenv("TMPDIR");
  std::string path = std::string(base == nullptr ? "/tmp" : base) + "/volt-bench-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return sys_error("mkdtemp", path);
  BenchScratch scratch(path);
  progress("making a snapshot to measure ...");
  const vmm::Deadline deadline = VOLT_TRY(deadline_of(arguments));
  const snapshot::BootedSandbox booted = VOLT_TRY(boot_guest(kvm, arguments, deadline));
  VOLT_TRY(snapshot::capture(kvm, *booted.sandbox, scratch.store_, scratch.reference(), {}));
  const auto opened = VOLT_TRY(snapshot::OpenedSnapshot::open(scratch.store_, scratch.reference()));
  scratch.raw_ = Fd{::dup(opened.memory().get())};
  if (VOLT_TRY(storage_of(arguments)) == snapshot::Storage::kPacked) {
    VOLT_TRY(snapshot::pack(scratch.store_, scratch.reference(), {}));
  }
  return scratch;
}

BenchScratch::~BenchScratch() {
  if (store_.path().empty()) return;
  [[maybe_unused]] const Result<> removed = store_.remove(reference());
  for (const char* folder : {"/snapshots", "/names", "/packs", ""}) {
    ::rmdir((store_.path() + folder).c_str());
  }
}

}  // namespace volt::tools
