// The images that a pager serves: one for each snapshot, made when the first VM asks for it, and
// shared by all that ask later, whatever name they use. Images that nobody uses are kept while they
// are few: the next clone finds what earlier ones brought in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "snapshot/snapshot_source.h"
#include "snapshot/store.h"
#include "uffd/pager_service.h"

namespace volt::snapshot {

class PagerImages final {
 public:
  static constexpr std::size_t kIdleMax = 8;

  PagerImages(Store store, const uffd::FaultOptions& faults)
      : store_(std::move(store)), faults_(faults) {}

  // On any thread; two that ask at once wait for each other.
  Result<std::shared_ptr<uffd::ServedImage>> open(const std::string& reference);
  // Counters of each image, as a JSON document.
  std::string stats() const;

 private:
  struct Image {
    std::shared_ptr<uffd::ServedImage> served;
    const SnapshotSource* source;  // of served->server
    std::uint64_t last_use;
  };
  Result<Image> load(const Reference& reference) const;
  void drop_idle();

  const Store store_;
  const uffd::FaultOptions faults_;
  mutable std::mutex mutex_;
  std::map<std::string, Image> images_;  // by digest, in hex
  std::uint64_t uses_ = 0;
};

// {count, p50, p90, p99, max}, the last four in microseconds, as a JSON document.
std::string times_document(const uffd::FaultTimes& times);

// What a pager says about itself, asked for over its socket.
Result<std::string> pager_stats(const std::string& path);

}  // namespace volt::snapshot
