// The snapshots of one data directory. The directory is the truth; there is no database and no lock
// on the way of a restore.
//
//   snapshots/<digest>/   manifest, state, index: written once, never changed, only removed; and
//   its
//                         memory: `memory`, or `units` with the packs and layers it names
//   snapshots/.draft-*/   one being written; its writer holds a lock on it
//   names/<name>:<tag>    a symbolic link to ../snapshots/<digest>
//
// A snapshot appears whole: its files are written into a draft and synced, the manifest last, and
// the draft is renamed to its digest before a name points at it. What a killed writer leaves behind
// is a draft, or a snapshot without a name; the next writer removes both. Guest memory is for its
// owner: a snapshot's directory is closed to other users.
#pragma once

#include <string>
#include <vector>

#include "formats/digest.h"
#include "snapshot/reference.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::snapshot {

// The files of a snapshot.
inline constexpr char kManifestFile[] = "manifest";
inline constexpr char kStateFile[] = "state";
inline constexpr char kIndexFile[] = "index";
inline constexpr char kMemoryFile[] = "memory";
inline constexpr char kUnitsFile[] = "units";     // instead of `memory`: where its units are
inline constexpr char kLayerPrefix[] = "layer-";  // raw memory of this or an older snapshot
inline constexpr char kHotSetFile[] = "hotset";   // may come later, may be missing

// A snapshot being written. Dropping it removes what was written, packs that were for it included.
class Draft {
 public:
  Draft(Draft&&) noexcept = default;
  Draft& operator=(Draft&&) = delete;
  ~Draft();

  const Fd& dir() const { return dir_; }
  // A new empty file in it.
  Result<Fd> create_file(const char* name) const;

 private:
  friend class Store;
  Draft(std::string path, Fd dir, std::string packs)
      : path_(std::move(path)), dir_(std::move(dir)), packs_(std::move(packs)) {}

  std::string path_;  // empty once it is published
  Fd dir_;            // holds the lock that says a writer lives
  std::string packs_;
};

struct ListedSnapshot {
  Reference reference;
  std::string digest_hex;
};

class Store {
 public:
  // `path` is made when something is written to it.
  explicit Store(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string packs() const { return path_ + "/packs"; }

  // The snapshot's directory. kNotFound says what there is instead.
  Result<Fd> find(const Reference& reference) const;
  // What its name points at, in hex.
  Result<std::string> digest_of(const Reference& reference) const;
  Result<std::vector<ListedSnapshot>> list() const;
  bool exists(const Reference& reference) const;

  Result<Draft> begin() const;
  // Makes a finished draft the snapshot `digest` under `reference`. kConflict if the name is taken
  // and `replace` was not asked for; the draft is gone then.
  enum class IfTaken { kRefuse, kReplace };
  Result<> publish(Draft draft, const formats::Sha256& digest, const Reference& reference,
                   IfTaken if_taken) const;

  // Forgets the name, and the snapshot when no name is left for it.
  Result<> remove(const Reference& reference) const;

  // Removes what killed writers left behind, as far as it can: what stays is reported by
  // find_strays().
  void sweep() const;

 private:
  std::string snapshots() const { return path_ + "/snapshots"; }
  std::string names() const { return path_ + "/names"; }
  std::string name_path(const Reference& reference) const;

  std::string path_;
};

}  // namespace volt::snapshot
