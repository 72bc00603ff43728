// A `volt pager` for a bench alone: another process of this program, on a socket of its own, that
// goes away with the bench, however that ends.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::tools {

class BenchPager {
 public:
  // Serves what is in the data directory `store`, and times each fault. It listens when this
  // returns.
  static Result<BenchPager> start(const std::string& store);
  BenchPager(BenchPager&& other) noexcept
      : folder_(std::exchange(other.folder_, "")),
        pid_(std::exchange(other.pid_, -1)),
        output_(std::move(other.output_)) {}
  BenchPager& operator=(BenchPager&&) = delete;
  ~BenchPager();

  std::string socket() const { return folder_ + "/pager"; }
  // Its own counters, as `volt pager --stats --json` prints them.
  Result<nlohmann::ordered_json> stats() const;

 private:
  explicit BenchPager(std::string folder) : folder_(std::move(folder)) {}
  Result<> await_ready() const;

  std::string folder_;
  int pid_ = -1;
  Fd output_;  // what it prints
};

}  // namespace volt::tools
