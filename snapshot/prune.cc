#include "snapshot/prune.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "snapshot/storage.h"
#include "snapshot/unit_reader.h"
#include "snapshot/usage.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

std::uint64_t disk_bytes(const struct stat& info) {
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

class Pruner {
 public:
  Pruner(const Store& store, const PruneOptions& options) : store_(store), options_(options) {}

  Result<Pruned> run() {
    if (!options_.dry_run) store_.sweep();
    Packs packs = VOLT_TRY(Packs::open(store_.packs(), Packs::Lock::kExclusive));
    VOLT_TRY(remove_leftovers());
    VOLT_TRY(rewrite_packs(packs));
    VOLT_TRY(remove_packs(packs));
    for (const Pruned::Item& item : pruned_.removed) pruned_.bytes += item.bytes;
    pruned_.bytes -= std::min(pruned_.bytes, written_);
    return std::move(pruned_);
  }

 private:
  void remove(const Fd& dir, const std::string& name, const std::string& what) {
    struct stat info;
    if (::fstatat(dir.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return;
    // A link that goes gives bytes back only if it is the last.
    const std::uint64_t bytes = info.st_nlink > 1 ? 0 : disk_bytes(info);
    if (!options_.dry_run && ::unlinkat(dir.get(), name.c_str(), 0) != 0) return;
    pruned_.removed.push_back({what, bytes});
  }

  // In each snapshot's directory: what its storage does not use (any more).
  Result<> remove_leftovers() {
    std::set<std::string> seen;
    for (const ListedSnapshot& each : VOLT_TRY(store_.list())) {
      if (!seen.insert(each.digest_hex).second) continue;
      const auto locked = open_locked(store_, each.reference);
      if (!locked) continue;  // being changed right now, or damaged
      for (const std::string& name : VOLT_TRY(unused_files(locked->dir))) {
        remove(locked->dir, name, "snapshots/" + each.digest_hex.substr(0, 12) + "/" + name);
      }
    }
    return {};
  }

  // A snapshot that is packed, and the names of its packs: not its descriptors, for there may be
  // more snapshots than a process may open files.
  struct Packed {
    Reference reference;
    std::vector<std::string> packs;
  };
  Result<std::vector<Packed>> count_all(UsageCount& count) const {
    std::vector<Packed> packed;
    std::set<std::string> seen;
    for (const ListedSnapshot& each : VOLT_TRY(store_.list())) {
      if (!seen.insert(each.digest_hex).second) continue;
      const auto opened = OpenedSnapshot::open(store_, each.reference);
      if (!opened && !store_.exists(each.reference)) continue;  // removed meanwhile
      if (!opened) return std::unexpected(opened.error());
      VOLT_TRY(count.add(*opened));
      if (opened->is_raw()) continue;
      Packed& added = packed.emplace_back(Packed{each.reference, {}});
      for (const auto& container : opened->containers()) added.packs.push_back(container.name);
    }
    return packed;
  }

  // Moves the living units of packs that are mostly dead into a new pack.
  Result<> rewrite_packs(Packs& packs) {
    UsageCount count;
    const std::vector<Packed> packed = VOLT_TRY(count_all(count));
    const std::set<std::string> dying = dying_packs(packs, count);
    if (dying.empty() || options_.dry_run) return {};
    for (const Packed& snapshot : packed) {
      const bool uses = std::ranges::any_of(
          snapshot.packs, [&](const std::string& name) { return dying.contains(name); });
      if (!uses) continue;
      VOLT_TRY(packs.look_again());
      for (const std::string& name : dying) packs.leave_out(*pack_id_of(name));
      const auto change = repack(store_, packs, snapshot.reference, options_.pack);
      if (change) {
        written_ += change->written_bytes;
      } else if (change.error().code != Code::kBusy && change.error().code != Code::kNotFound) {
        return std::unexpected(change.error());
      }  // else unpacked or removed right now: it needs its packs, or none
    }
    return {};
  }

  std::set<std::string> dying_packs(const Packs& packs, const UsageCount& count) {
    std::set<std::string> dying;
    const std::map<std::string, std::uint64_t> live = count.live_bytes();
    for (const auto& pack : packs.list()) {
      const std::string name = pack_file_name(pack->id());
      const auto used = live.find(name);
      if (used == live.end()) continue;  // nobody's: removed whole
      const std::uint64_t all = pack->tail().table_offset - formats::kPackHeadBytes;
      const std::uint64_t dead = all - std::min(all, used->second);
      if (dead == 0) continue;
      if (dead * 100 < all * options_.dead_percent) {
        pruned_.kept_dead_bytes += dead;
        continue;
      }
      dying.insert(name);
      pruned_.removed.push_back({"packs/" + name + ": " + std::to_string(dead) + " dead bytes",
                                 options_.dry_run ? dead : 0});
    }
    return dying;
  }

  Result<> remove_packs(const Packs& packs) {
    for (const std::string& name : VOLT_TRY(directory_entries(store_.packs()))) {
      if (name.starts_with(".draft-")) {
        const Result<Fd> draft = open_at(packs.dir().get(), name.c_str(), O_RDONLY);
        if (draft && ::flock(draft->get(), LOCK_EX | LOCK_NB) == 0) {
          remove(packs.dir(), name, "packs/" + name);
        }
      }
      struct stat info;
      if (!pack_id_of(name) || ::fstatat(packs.dir().get(), name.c_str(), &info, 0) != 0) continue;
      if (info.st_nlink == 1) remove(packs.dir(), name, "packs/" + name);
    }
    return {};
  }

  const Store& store_;
  const PruneOptions& options_;
  Pruned pruned_;
  std::uint64_t written_ = 0;  // in place of what was removed
};

}  // namespace

Result<Pruned> prune(const Store& store, const PruneOptions& options) {
  return Pruner(store, options).run();
}

}  // namespace volt::snapshot
