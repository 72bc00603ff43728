// How clones come to a fault server, and how they go.
#include <fcntl.h>

#include <algorithm>

#include "uffd/fault_server.h"

namespace volt::uffd {

Result<> FaultServer::check(const std::vector<View>& views, const CloneOptions& options) const {
  const std::uint64_t bytes = image_.units() * image_.unit_bytes();
  for (const View& view : views) {
    const bool aligned = view.image_offset % image_.unit_bytes() == 0 &&
                         view.host.size() % image_.unit_bytes() == 0 &&
                         reinterpret_cast<std::uintptr_t>(view.host.data()) % kPageBytes == 0;
    if (!aligned || view.image_offset > bytes || view.host.size() > bytes - view.image_offset) {
      return fail(Code::kInvalid, "a view that is not made of whole units of the image");
    }
  }
  if (options.home == CloneOptions::Home::kAnotherProcess && lost_pages_ == LostPages::kForbid &&
      options.on_lost == nullptr) {
    return fail(Code::kInvalid, "nobody would stop a clone of another process at a lost page");
  }
  if (options.kind == CloneOptions::Kind::kRecording && options.recorded_pages_max == 0) {
    return fail(Code::kInvalid, "a recording of no pages");
  }
  return {};
}

Result<std::uint64_t> FaultServer::attach(Userfaultfd uffd, std::vector<View> views,
                                          CloneOptions options) {
  VOLT_TRY(check(views, options));
  // One that blocks would never be ready, and hold up its thread.
  const int flags = ::fcntl(uffd.fd(), F_GETFL);
  if (flags < 0 || ::fcntl(uffd.fd(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return sys_error("fcntl userfaultfd");
  }
  Clone clone;
  std::uint64_t id;
  std::vector<std::pair<std::uint64_t, Error>> tainted;
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
    clone = std::make_shared<ServedClone>(
        std::move(uffd), std::move(views), std::move(options),
        ServedClone::Setup{.image_bytes = image_.units() * image_.unit_bytes(),
                           .unit_bytes = image_.unit_bytes(),
                           .lost_pages = lost_pages_,
                           .loop = *loops_[id % loops_.size()]});
    clones_.emplace(id, clone);
    for (const std::uint64_t unit : tainted_) tainted.emplace_back(unit, lost_.at(unit));
  }
  for (const auto& [unit, why] : tainted) {
    if (const auto place = clone->place_of_unit(unit)) {
      clone->lose(*place, why, ServedClone::Need::kNo);
    }
  }
  if (Result<> watched = clone->watch(id); !watched) {
    detach(id);
    return std::unexpected(std::move(watched).error());
  }
  return id;
}

FaultServer::Clone FaultServer::find(std::uint64_t clone) const {
  const std::lock_guard lock(mutex_);
  const auto found = clones_.find(clone);
  return found == clones_.end() ? nullptr : found->second;
}

void FaultServer::forget(std::uint64_t id) {
  const Clone clone = find(id);
  if (clone == nullptr) return;
  clone->forget();
  const std::lock_guard lock(mutex_);
  for (auto& [unit, wait] : waiting_) {
    std::erase_if(wait.waiters, [&](const Waiter& waiter) { return waiter.clone == clone; });
  }
}

void FaultServer::detach(std::uint64_t id) {
  const Clone clone = find(id);
  if (clone == nullptr) return;
  forget(id);
  {
    const std::lock_guard lock(mutex_);
    clones_.erase(id);
  }
  clone->close();
}

std::optional<Error> FaultServer::failure(std::uint64_t clone) const {
  const Clone found = find(clone);
  return found == nullptr ? std::nullopt : found->failure();
}

Recording FaultServer::take_recording(std::uint64_t clone) {
  const Clone found = find(clone);
  return found == nullptr ? Recording() : found->take_recording();
}

}  // namespace volt::uffd
