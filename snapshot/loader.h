// The three ways a snapshot's memory reaches a guest. The guest sees the same bytes under each.
//   map   the memory file, mapped privately: pages come from the page cache when touched, and are
//         copied when written. Not verified, unless asked for before the restore.
//   uffd  a shared image filled unit by unit when touched; each unit is verified as it comes.
//   copy  everything is read and verified before the guest runs.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "snapshot/hot_set.h"
#include "snapshot/opened.h"
#include "snapshot/populating.h"
#include "uffd/fault_server.h"
#include "uffd/pager_client.h"
#include "vmm/guest_memory.h"
#include "vmm/ram_slots.h"

namespace volt::snapshot {

class SnapshotSource;

enum class Loader { kAuto, kMap, kUffd, kCopy };

const char* loader_name(Loader loader);
Result<Loader> parse_loader(std::string_view name);

// Whether this user may use loader uffd; kHostUnable says what is missing.
Result<> uffd_usable();
// Whether this kernel can poison pages.
bool pages_can_be_poisoned();

struct ChosenLoader {
  Loader loader;
  std::string why;
};
// What `asked` comes down to for this snapshot; the choice is reported, never silent.
Result<ChosenLoader> choose_loader(Loader asked, bool stored_raw);

// Memory a pager serves, and the pager. The pager must have forgotten the memory before it is
// unmapped, and the memory must be gone before this is.
class PagedClone {
 public:
  PagedClone() = default;
  // `source` is the server's.
  PagedClone(std::shared_ptr<uffd::FaultServer> server, const SnapshotSource* source,
             std::uint64_t id)
      : server_(std::move(server)), source_(source), id_(id) {}
  // Served by another process.
  explicit PagedClone(std::unique_ptr<uffd::PagerClient> away) : away_(std::move(away)) {}
  PagedClone(PagedClone&&) noexcept = default;
  PagedClone& operator=(PagedClone&&) = delete;
  ~PagedClone() {
    if (server_ != nullptr) server_->detach(id_);
  }
  void forget() {
    if (server_ != nullptr) server_->forget(id_);
    if (away_ != nullptr) away_->forget();
  }
  // `uffd` is for `views` of the memory that this is the pager of.
  Result<> hand_over(uffd::Userfaultfd uffd, std::vector<uffd::View> views,
                     std::optional<uffd::LostPages> lost_pages) {
    return away_->attach(std::move(uffd), std::move(views), lost_pages);
  }
  bool is_served() const { return server_ != nullptr || away_ != nullptr; }
  // Why a page that this clone needs cannot be had.
  std::optional<Error> failure() const {
    if (away_ != nullptr) return away_->failure();
    return server_ == nullptr ? std::nullopt : server_->failure(id_);
  }
  // First touches so far, if they are written down.
  uffd::Recording take_recording() {
    return server_ == nullptr ? uffd::Recording{} : server_->take_recording(id_);
  }
  // Null unless the loader is uffd, and the pager in this process.
  const uffd::FaultServer* server() const { return server_.get(); }
  // Where that one's pages come from; null where there is none.
  const SnapshotSource* source() const { return source_; }
  // Null unless it is in another.
  const uffd::PagerClient* away() const { return away_.get(); }

 private:
  std::unique_ptr<uffd::PagerClient> away_;
  std::shared_ptr<uffd::FaultServer> server_;
  const SnapshotSource* source_ = nullptr;
  std::uint64_t id_ = 0;
};

// How a pager watches a clone, and what is brought in before anybody asks.
struct MemoryOptions {
  uffd::FaultOptions faults = {};
  HotSetPlan hot_set = {};
};

struct LoadedMemory {
  LoadedMemory(PagedClone pager_, vmm::GuestMemory memory_, vmm::Attach attach_)
      : pager(std::move(pager_)), memory(std::move(memory_)), attach(attach_) {}
  LoadedMemory(LoadedMemory&&) noexcept = default;
  LoadedMemory& operator=(LoadedMemory&&) = delete;
  ~LoadedMemory() { pager.forget(); }

  PagedClone pager;
  vmm::GuestMemory memory;
  vmm::Attach attach;  // what of it needs a slot at once
  std::unique_ptr<Populating> populating;
};

Result<LoadedMemory> load_memory(Loader loader,
                                 const std::shared_ptr<const OpenedSnapshot>& snapshot,
                                 const MemoryOptions& options = {});

// What a snapshot is, as its pager says; no store is needed. The loader is uffd.
Result<std::shared_ptr<const OpenedSnapshot>> describe(const uffd::PagerClient& pager);
// Memory that shows the image of a pager in another process.
Result<LoadedMemory> load_from_pager(const OpenedSnapshot& snapshot,
                                     std::unique_ptr<uffd::PagerClient> pager,
                                     uffd::pager::Mode mode,
                                     std::optional<uffd::LostPages> lost_pages = std::nullopt);
// Anonymous memory that a handler written for Firecracker fills.
Result<LoadedMemory> load_from_handler(const OpenedSnapshot& snapshot, const std::string& path);

}  // namespace volt::snapshot
