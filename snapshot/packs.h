// The packs of a data directory: files of stored units that snapshots share.
//
//   packs/pack-<id>     one pack; each snapshot that uses it has a hard link to it in its own
//                       directory, so the file system counts who needs it, and a reader never
//                       leaves its snapshot's directory
//   packs/.draft-*      one being written; its writer holds a lock on it
//
// A pack with no link but the one here belongs to nobody and may go. Whoever may link a pack holds
// a shared lock on the directory meanwhile; who removes packs holds it exclusively.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "formats/pack.h"
#include "snapshot/unit_codec.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"
#include "vmm/os/mapping.h"

namespace volt::snapshot {

std::string pack_file_name(const formats::PackId& id);
// The id in a name of that form.
std::optional<formats::PackId> pack_id_of(const std::string& file_name);

// A finished pack. Holds no descriptor: a data directory may have more packs than a process files.
class Pack {
 public:
  // Checks head and tail, and that they say the same.
  static Result<std::unique_ptr<Pack>> open(int dir_fd, const std::string& name);

  const formats::PackId& id() const { return tail_.id; }
  const formats::PackTail& tail() const { return tail_; }
  Result<Fd> file() const;
  // Mapped when it is first asked for. Safe to call from several threads at once.
  Result<const formats::PackTable*> table() const;

 private:
  Pack(int dir_fd, std::string name, formats::PackTail tail, std::uint64_t bytes)
      : dir_fd_(dir_fd), name_(std::move(name)), tail_(tail), bytes_(bytes) {}
  Result<formats::PackTable> map_table() const;

  int dir_fd_;
  std::string name_;
  formats::PackTail tail_;
  std::uint64_t bytes_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Mapping> mapped_;
  mutable std::optional<Result<formats::PackTable>> table_;
};

class Packs {
 public:
  enum class Lock {
    kShared,     // to add packs, and link to those that are there
    kExclusive,  // to remove packs
  };
  // kBusy if the other lock is held. Makes the directory.
  static Result<Packs> open(const std::string& path, Lock lock);

  const Fd& dir() const { return dir_; }
  const std::vector<std::unique_ptr<Pack>>& list() const { return packs_; }
  // Not to be shared from any more.
  void leave_out(const formats::PackId& id);
  // Finds packs that were added since.
  Result<> look_again();
  // Files that should be packs and are not: cut short, foreign. Named, never removed.
  const std::vector<Error>& damaged() const { return damaged_; }

  struct Found {
    std::size_t pack;  // in list()
    std::uint64_t offset;
    std::uint32_t stored_bytes;
    formats::Xxh128 stored_sum;
  };
  // What a search needs to compare bytes; one for each thread.
  struct Comparer {
    const Pack* pack = nullptr;  // whose file is open
    Fd file;
    UnitDecoder decoder;
    std::vector<std::byte> stored;
    std::vector<std::byte> raw;
  };
  // Where these very bytes are stored already: a sum only says where to look.
  Result<std::optional<Found>> find(std::span<const std::byte> raw, const formats::Xxh128& sum,
                                    Comparer& comparer) const;

 private:
  Packs(std::string path, Fd dir) : path_(std::move(path)), dir_(std::move(dir)) {}

  std::string path_;
  Fd dir_;  // holds the lock
  std::vector<std::unique_ptr<Pack>> packs_;
  std::vector<Error> damaged_;
};

// Removes packs that nobody links to, unless somebody may be about to.
void remove_unused_packs(const std::string& path);

}  // namespace volt::snapshot
