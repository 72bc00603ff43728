// Brings the pages of a hot set into mapped memory, on a thread of its own beside the building of
// the VM: what the page cache lacks is read ahead, what will be written is populated in batches,
// which one by one would cost the guest a fault through KVM each. Where a pager brings the pages,
// those that will be written are populated as soon as their unit has come.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <vector>

#include "formats/hot_set.h"
#include "snapshot/opened.h"
#include "vmm/guest_memory.h"

namespace volt::snapshot {

// Units that have come, handed from the pager's threads to who populates.
class Arrivals {
 public:
  void add(std::uint64_t unit);
  // Waits for some; none once it is to stop.
  std::vector<std::uint64_t> take(const std::stop_token& stop);

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<std::uint64_t> units_;
};

// Must be gone before the memory is.
class Populating {
 public:
  // Null where there is too little to do for a thread. `memory_file` may be -1: then nothing is
  // read ahead.
  static std::unique_ptr<Populating> start(const formats::HotSet& set,
                                           const OpenedSnapshot& snapshot,
                                           const vmm::GuestMemory& memory, int memory_file);
  // Behind a pager that tells `arrivals` of the set's units.
  static std::unique_ptr<Populating> behind(const formats::HotSet& set,
                                            const OpenedSnapshot& snapshot,
                                            const vmm::GuestMemory& memory,
                                            std::shared_ptr<Arrivals> arrivals);

 private:
  struct Run {
    std::byte* host;
    std::uint64_t file_offset;
    std::size_t bytes;
  };
  struct Work {
    std::vector<Run> read;   // of the file, in order of first touch
    std::vector<Run> write;  // to be populated, ascending in windows
    int file;
  };
  using RunsByUnit = std::unordered_map<std::uint64_t, std::vector<Run>>;
  template <typename Body>
  static std::unique_ptr<Populating> on_a_thread(Body body);
  static void run(const std::stop_token& stop, const Work& work);
  static void follow(const std::stop_token& stop, RunsByUnit runs, Arrivals& arrivals);

  std::jthread thread_;
};

}  // namespace volt::snapshot
