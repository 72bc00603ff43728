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
      const auto opened = OpenedSnapshot::open(store_, each.reference);
      if (!opened) continue;
      const Result<Fd> dir = lock_storage(*opened);
      if (!dir) continue;  // being changed right now
      for (const std::string& name : VOLT_TRY(unused_files(*opened))) {
        remove(*dir, name, "snapshots/" + each.digest_hex.substr(0, 12) + "/" + name);
      }
    }
    return {};
  }

  // Moves the living units of packs that are mostly dead into a new pack.
  Result<> rewrite_packs(Packs& packs) {
    std::vector<OpenedSnapshot> packed;
    UsageCount count;
    for (const ListedSnapshot& each : VOLT_TRY(store_.list())) {
      OpenedSnapshot opened = VOLT_TRY(OpenedSnapshot::open(store_, each.reference));
      VOLT_TRY(count.add(opened));
      if (!opened.is_raw()) packed.push_back(std::move(opened));
    }
    const std::set<std::string> dying = dying_packs(packs, count);
    if (dying.empty() || options_.dry_run) return {};
    for (const std::string& name : dying) packs.leave_out(*pack_id_of(name));
    std::set<std::string> done;
    for (const OpenedSnapshot& snapshot : packed) {
      const bool uses = std::ranges::any_of(snapshot.containers(), [&](const auto& container) {
        return dying.contains(container.name);
      });
      if (!uses || !done.insert(formats::to_hex(snapshot.digest())).second) continue;
      VOLT_TRY(repack(store_, packs, snapshot, options_.pack));
      VOLT_TRY(packs.look_again());
      for (const std::string& name : dying) packs.leave_out(*pack_id_of(name));
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
};

}  // namespace

Result<Pruned> prune(const Store& store, const PruneOptions& options) {
  return Pruner(store, options).run();
}

}  // namespace volt::snapshot
