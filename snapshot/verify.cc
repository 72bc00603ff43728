#include "snapshot/verify.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "snapshot/hot_set.h"
#include "snapshot/packs.h"
#include "snapshot/storage.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr std::array<std::string_view, 9> kFiles = {kManifestFile, kStateFile,   kIndexFile,
                                                    kMemoryFile,   kUnitsFile,   kHotSetFile,
                                                    "units.new",   "memory.new", "hotset.new"};

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
  if (!snapshot.is_raw()) VOLT_TRY(snapshot.units().check_all());
  VOLT_TRY(snapshot.check_agreement());
  VOLT_TRY(read_hot_set(snapshot));
  if (depth == Depth::kHeads) return Verified{};
  return check_memory(snapshot);
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

Result<> verify_packs(const Store& store) {
  const Result<Fd> dir = open_at(AT_FDCWD, store.packs().c_str(), O_RDONLY | O_DIRECTORY);
  if (!dir) return dir.error().code == Code::kNotFound ? Result<>{} : std::unexpected(dir.error());
  for (const std::string& entry : VOLT_TRY(directory_entries(store.packs()))) {
    if (!pack_id_of(entry)) continue;
    const Result<std::unique_ptr<Pack>> pack = Pack::open(dir->get(), entry);
    if (!pack && pack.error().code == Code::kNotFound) continue;  // removed meanwhile
    if (!pack) return std::unexpected(within("packs", pack.error()));
    const Result<const formats::PackTable*> table = (*pack)->table();
    if (!table && table.error().code == Code::kNotFound) continue;
    if (!table) return std::unexpected(within("packs", table.error()));
    VOLT_TRY_IN("packs/" + entry, (*table)->check_all());
  }
  return {};
}

namespace {

Result<> add_packs(const Store& store, std::vector<std::string>& strays) {
  for (const std::string& entry : VOLT_TRY(directory_entries(store.packs()))) {
    const std::string where = "packs/" + entry;
    struct stat info;
    if (::stat((store.path() + "/" + where).c_str(), &info) != 0) continue;
    if (!pack_id_of(entry)) {
      strays.push_back(where + ": being written, or left by a killed writer");
    } else if (info.st_nlink == 1) {
      strays.push_back(where + ": no snapshot uses it");
    }
  }
  return {};
}

// In the directory of a snapshot that is whole.
Result<> add_files(const Store& store, const Reference& reference, const std::string& where,
                   std::vector<std::string>& strays) {
  const Result<OpenedSnapshot> opened = OpenedSnapshot::open(store, reference);
  if (!opened) return {};  // verify says what is wrong with it
  for (const std::string& file : VOLT_TRY(unused_files(opened->directory()))) {
    strays.push_back(where + "/" + file + ": left by a change of how it is stored");
  }
  for (const std::string& file : VOLT_TRY(directory_entries(store.path() + "/" + where))) {
    const bool ours = std::find(kFiles.begin(), kFiles.end(), file) != kFiles.end() ||
                      file.starts_with(kLayerPrefix) || pack_id_of(file);
    if (!ours) strays.push_back(where + "/" + file + ": not ours");
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> find_strays(const Store& store) {
  std::vector<std::string> strays;
  std::map<std::string, Reference> named;
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path()))) {
    if (entry != "snapshots" && entry != "names" && entry != "packs" && entry != "kernels") {
      strays.push_back(entry + ": not ours");
    }
  }
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path() + "/names"))) {
    const Result<Reference> reference = Reference::parse(entry);
    const Result<std::string> digest =
        reference ? store.digest_of(*reference) : Result<std::string>("");
    const bool whole = digest && formats::sha256_from_hex(*digest) && store.find(*reference);
    if (whole) named.emplace(*digest, *reference);
    if (!whole) strays.push_back("names/" + entry + ": names no snapshot");
  }
  for (const std::string& entry : VOLT_TRY(directory_entries(store.path() + "/snapshots"))) {
    const std::string where = "snapshots/" + entry;
    const auto name = named.find(entry);
    if (name == named.end()) {
      strays.push_back(where + ": without a name; being written, or left by a killed writer");
      continue;
    }
    VOLT_TRY(add_files(store, name->second, where, strays));
  }
  VOLT_TRY(add_packs(store, strays));
  return strays;
}

}  // namespace volt::snapshot
