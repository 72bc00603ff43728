// A snapshot for a bench alone, in a data directory of its own that goes away with it.
#pragma once

#include <string>

#include "snapshot/store.h"
#include "tools/options.h"
#include "vmm/kvm.h"

namespace volt::tools {

class BenchScratch {
 public:
  // The guest and the storage that the options describe.
  static Result<BenchScratch> make(const Arguments& arguments, const vmm::Kvm& kvm);
  BenchScratch(BenchScratch&& other) noexcept
      : store_(std::exchange(other.store_, snapshot::Store(""))), raw_(std::move(other.raw_)) {}
  BenchScratch& operator=(BenchScratch&&) = delete;
  ~BenchScratch();

  const snapshot::Store& store() const { return store_; }
  // For the floor, which knows no other; still there when the snapshot has been packed.
  std::string raw_memory() const { return "/proc/self/fd/" + std::to_string(raw_.get()); }
  static snapshot::Reference reference() { return {"bench", "latest", std::nullopt}; }

 private:
  explicit BenchScratch(std::string path) : store_(std::move(path)) {}
  snapshot::Store store_;
  Fd raw_;
};

}  // namespace volt::tools
