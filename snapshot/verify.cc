#include "snapshot/verify.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr std::array kFiles = {kManifestFile, kStateFile, kIndexFile, kMemoryFile};

Result<> check_index_file(const OpenedSnapshot& snapshot) {
  const Fd file = VOLT_TRY(open_at(snapshot.directory().get(), kIndexFile, O_RDONLY));
  const std::vector<std::byte> bytes =
      VOLT_TRY(read_whole(file, snapshot.manifest().index().size_bytes(), kIndexFile));
  const formats::Sha256 digest = formats::sha256(bytes);
  if (std::memcmp(digest.data(), snapshot.manifest().index().sha256().data(), digest.size()) != 0) {
    return fail(Code::kCorrupt, "index: it is not the one the manifest names");
  }
  return {};
}

Result<Verified> verify_opened(const OpenedSnapshot& snapshot, Depth depth) {
  VOLT_TRY(snapshot.index().check_all());  // names the block that is damaged, so it comes first
  VOLT_TRY(check_index_file(snapshot));
  VOLT_TRY(snapshot.check_agreement());
  if (depth == Depth::kHeads) return Verified{};
  return snapshot.check_memory();
}

}  // namespace

Result<Verified> verify(const Store& store, const Reference& reference, Depth depth) {
  const OpenedSnapshot snapshot = VOLT_TRY(OpenedSnapshot::open(store, reference));
  const std::string name = "snapshot " + reference.text();
  const std::string hex = formats::to_hex(snapshot.digest());
  const Result<std::string> stored_as = store.digest_of(reference);
  if (stored_as && *stored_as != hex) {
    return fail(Code::kCorrupt,
                name + ": manifest: its digest is " + hex + ", but it is stored as " + *stored_as);
  }
  return VOLT_TRY_IN(name, verify_opened(snapshot, depth));
}

Result<std::vector<std::string>> find_strays(const Store& store) {
  std::vector<std::string> strays;
  std::vector<std::string> named;
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path()))) {
    if (entry != "snapshots" && entry != "names") strays.push_back(entry + ": not ours");
  }
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path() + "/names"))) {
    const Result<Reference> reference = Reference::parse(entry);
    const Result<std::string> digest =
        reference ? store.digest_of(*reference) : Result<std::string>("");
    const bool whole = digest && formats::sha256_from_hex(*digest) && store.find(*reference);
    if (whole) named.push_back(*digest);
    if (!whole) strays.push_back("names/" + entry + ": names no snapshot");
  }
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path() + "/snapshots"))) {
    const std::string where = "snapshots/" + entry;
    if (std::find(named.begin(), named.end(), entry) == named.end()) {
      strays.push_back(where + ": without a name; being written, or left by a killed writer");
      continue;
    }
    for (const std::string& file : VOLT_TRY(directory_entries(store.path() + "/" + where))) {
      if (std::find(kFiles.begin(), kFiles.end(), file) == kFiles.end()) {
        strays.push_back(where + "/" + file + ": not ours");
      }
    }
  }
  return strays;
}

}  // namespace volt::snapshot
