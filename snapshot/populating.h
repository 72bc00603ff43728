// Brings the pages of a hot set into mapped memory, on a thread of its own beside the building of
// the VM: what the page cache lacks is read ahead, what will be written is populated in batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "formats/hot_set.h"
#include "snapshot/opened.h"
#include "vmm/guest_memory.h"

namespace volt::snapshot {

// Must be gone before the memory is.
class Populating {
 public:
  // Null where there is too little to do for a thread. `memory_file` may be -1: then nothing is
  // read ahead.
  static std::unique_ptr<Populating> start(const formats::HotSet& set,
                                           const OpenedSnapshot& snapshot,
                                           const vmm::GuestMemory& memory, int memory_file);

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
  static void run(const std::stop_token& stop, const Work& work);

  std::jthread thread_;
};

}  // namespace volt::snapshot
