#include "snapshot/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "snapshot/packs.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr char kDraftPrefix[] = ".draft-";

// A snapshot's directory holds files only. The manifest goes first: without it there is no
// snapshot.
Result<> remove_tree(const std::string& path) {
  const Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!dir) return dir.error().code == Code::kNotFound ? Result<>{} : std::unexpected(dir.error());
  ::unlinkat(dir->get(), kManifestFile, 0);
  for (const std::string& entry : VOLT_TRY(directory_entries(path))) {
    if (::unlinkat(dir->get(), entry.c_str(), 0) != 0 && errno != ENOENT) {
      return sys_error("unlink", path + "/" + entry);
    }
  }
  if (::rmdir(path.c_str()) != 0 && errno != ENOENT) return sys_error("rmdir", path);
  return {};
}

Result<> sync_directory(const std::string& path) {
  const Fd dir = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY));
  return sync(dir, path);
}

// The digest a name's link points at, empty if the name is not there (any more).
std::string target_digest(const std::string& link) {
  char target[256];
  const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
  if (length <= 0) return {};
  const std::string text(target, static_cast<std::size_t>(length));
  return text.substr(text.find_last_of('/') + 1);
}

std::string random_suffix() {
  std::array<std::byte, 8> random = {};
  [[maybe_unused]] const ssize_t got = ::getrandom(random.data(), random.size(), 0);
  return std::to_string(::getpid()) + "-" + formats::to_hex(random);
}

bool has_name(const std::vector<ListedSnapshot>& named, const std::string& digest_hex) {
  return std::any_of(named.begin(), named.end(),
                     [&](const ListedSnapshot& each) { return each.digest_hex == digest_hex; });
}

std::unexpected<Error> not_found(const Store& store, const Reference& reference) {
  std::string have;
  if (const auto list = store.list()) {
    for (const ListedSnapshot& each : *list) {
      if (have.size() < 200) have += (have.empty() ? " (there is: " : ", ") + each.reference.text();
    }
  }
  if (!have.empty()) have += ")";
  return fail(Code::kNotFound, "no snapshot '" + reference.text() + "'" + have);
}

}  // namespace

Draft::~Draft() {
  // Best effort: what cannot be removed now is swept later, by its missing lock.
  if (!dir_.valid() || path_.empty()) return;
  [[maybe_unused]] const auto removed = remove_tree(path_);
  remove_unused_packs(packs_);
}

Result<Fd> Draft::create_file(const char* name) const {
  return open_at(dir_.get(), name, O_RDWR | O_CREAT | O_EXCL, 0444);
}

std::string Store::name_path(const Reference& reference) const {
  return names() + "/" + reference.name + ":" + reference.tag;
}

bool Store::exists(const Reference& reference) const {
  struct stat info;
  return ::lstat(name_path(reference).c_str(), &info) == 0;
}

Result<std::string> Store::digest_of(const Reference& reference) const {
  if (reference.name.empty()) return formats::to_hex(*reference.digest);
  std::string digest = target_digest(name_path(reference));
  if (digest.empty()) return not_found(*this, reference);
  return digest;
}

Result<Fd> Store::find(const Reference& reference) const {
  if (reference.name.empty()) {
    const std::string path = snapshots() + "/" + formats::to_hex(*reference.digest);
    Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
    if (!dir && dir.error().code == Code::kNotFound) return not_found(*this, reference);
    return dir;
  }
  const std::string link = name_path(reference);
  Result<Fd> dir = open_at(AT_FDCWD, link.c_str(), O_PATH | O_DIRECTORY);
  while (!dir && dir.error().code == Code::kNotFound) {
    // Removed, or replaced meanwhile; or a name whose files are gone, which then stays as it is.
    const std::string target = target_digest(link);
    if (target.empty()) return not_found(*this, reference);
    dir = open_at(AT_FDCWD, link.c_str(), O_PATH | O_DIRECTORY);
    if (!dir && target == target_digest(link)) {
      return fail(Code::kCorrupt, "snapshot " + reference.text() + ": its files are gone");
    }
  }
  return dir;
}

Result<std::vector<ListedSnapshot>> Store::list() const {
  std::vector<ListedSnapshot> listed;
  for (const std::string& entry : VOLT_TRY(directory_entries(names()))) {
    Result<Reference> reference = Reference::parse(entry);
    if (!reference) continue;  // a name being replaced, or not ours; verify reports it
    const std::string digest = target_digest(names() + "/" + entry);
    if (!digest.empty()) listed.push_back({*std::move(reference), digest});
  }
  return listed;
}

// A sweeper may take a directory for garbage between its making and its locking; then another is
// made.
Result<Draft> Store::begin() const {
  VOLT_TRY(make_directories(snapshots()));
  VOLT_TRY(make_directories(names()));
  sweep();
  for (;;) {
    std::string path = snapshots() + "/" + kDraftPrefix + random_suffix();
    if (::mkdir(path.c_str(), 0700) != 0) return sys_error("mkdir", path);
    Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
    if (!dir && dir.error().code == Code::kNotFound) continue;
    if (!dir) {
      ::rmdir(path.c_str());
      return std::unexpected(dir.error());
    }
    Draft draft(std::move(path), *std::move(dir), packs());
    if (::flock(draft.dir().get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) continue;
      return sys_error("flock", draft.path_);
    }
    struct stat info;
    if (::fstat(draft.dir().get(), &info) == 0 && info.st_nlink > 0) return draft;
  }
}

Result<> Store::publish(Draft draft, const formats::Sha256& digest, const Reference& reference,
                        IfTaken if_taken) const {
  VOLT_TRY(sync(draft.dir(), draft.path_));
  const std::string hex = formats::to_hex(digest);
  const std::string final_path = snapshots() + "/" + hex;
  // The very same snapshot may be there already (loaded twice): then that one gets the name. Its
  // lock keeps it until it has it.
  Fd twin;
  while (::rename(draft.path_.c_str(), final_path.c_str()) != 0) {
    if (errno != EEXIST && errno != ENOTEMPTY) return sys_error("rename", final_path);
    Result<Fd> there = open_at(AT_FDCWD, final_path.c_str(), O_RDONLY | O_DIRECTORY);
    if (!there && there.error().code == Code::kNotFound) continue;
    twin = VOLT_TRY(std::move(there));
    struct stat info;
    if (::flock(twin.get(), LOCK_SH) != 0) return sys_error("flock", final_path);
    if (::fstat(twin.get(), &info) == 0 && info.st_nlink > 0) break;
    twin = Fd();
  }
  // From here the draft's guard removes the snapshot, until a name holds it; a twin is left alone.
  if (!twin.valid()) draft.path_ = final_path;
  VOLT_TRY(sync_directory(snapshots()));

  const std::string link = name_path(reference);
  const std::string old_digest = target_digest(link);
  const std::string target = "../snapshots/" + hex;
  if (if_taken == IfTaken::kRefuse) {
    if (::symlink(target.c_str(), link.c_str()) != 0) {
      if (errno != EEXIST) return sys_error("symlink", link);
      return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
    }
  } else {
    const std::string temporary = names() + "/" + kDraftPrefix + random_suffix();
    if (::symlink(target.c_str(), temporary.c_str()) != 0) return sys_error("symlink", temporary);
    if (::rename(temporary.c_str(), link.c_str()) != 0) return sys_error("rename", link);
  }
  if (!twin.valid()) draft.path_.clear();
  VOLT_TRY(sync_directory(names()));
  if (!old_digest.empty() && old_digest != hex) sweep();
  return {};
}

Result<> Store::remove(const Reference& reference) const {
  if (reference.name.empty()) {
    return fail(Code::kInvalid, "a snapshot is removed by its name, not by its digest");
  }
  const std::string link = name_path(reference);
  if (::unlink(link.c_str()) != 0) {
    if (errno == ENOENT) return not_found(*this, reference);
    return sys_error("unlink", link);
  }
  VOLT_TRY(sync_directory(names()));
  sweep();
  return {};
}

// A directory under snapshots/ is garbage when no name points at it and no writer holds its lock.
// The lock is looked at before the names: a writer names its snapshot before it lets go. One that
// had a name to begin with is left alone: who removes the name meanwhile sweeps after it.
void Store::sweep() const {
  const auto named_before = list();
  const auto entries = directory_entries(snapshots());
  if (!named_before || !entries) return;
  for (const std::string& entry : *entries) {
    const bool ours =
        entry.starts_with(kDraftPrefix) || formats::sha256_from_hex(entry).has_value();
    if (!ours || has_name(*named_before, entry)) continue;
    const std::string path = snapshots() + "/" + entry;
    const Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
    if (!dir || ::flock(dir->get(), LOCK_EX | LOCK_NB) != 0) continue;
    const auto named = list();
    if (named && !has_name(*named, entry)) [[maybe_unused]]
      const auto removed = remove_tree(path);
  }
  remove_unused_packs(packs());
  const auto links = directory_entries(names());
  if (!links) return;
  for (const std::string& entry : *links) {
    if (!entry.starts_with(kDraftPrefix)) continue;
    // A link being put in place belongs to a live process, or to one that was killed meanwhile.
    const std::string owner = entry.substr(sizeof kDraftPrefix - 1);
    const std::string process = "/proc/" + owner.substr(0, owner.find('-'));
    if (::access(process.c_str(), F_OK) != 0) ::unlink((names() + "/" + entry).c_str());
  }
}

}  // namespace volt::snapshot
