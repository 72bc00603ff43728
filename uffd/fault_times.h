// How long faults took to be answered: a histogram that any thread adds to without a lock. Off
// unless somebody measures: a fault that nobody times reads no clock.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace volt::uffd {

class FaultTimes final {
 public:
  void record(std::uint64_t ns) {
    counts_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
    std::uint64_t max = max_.load(std::memory_order_relaxed);
    while (ns > max && !max_.compare_exchange_weak(max, ns, std::memory_order_relaxed)) {
    }
  }

  std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (const auto& each : counts_) sum += each.load(std::memory_order_relaxed);
    return sum;
  }
  std::uint64_t max_ns() const { return max_.load(std::memory_order_relaxed); }
  // The middle of the bucket that has it, so right to 2 per cent; 0 where nothing was recorded.
  std::uint64_t quantile_ns(double q) const {
    const std::uint64_t total = count();
    if (total == 0) return 0;
    const auto rank = static_cast<std::uint64_t>(std::floor(q * static_cast<double>(total - 1)));
    std::uint64_t before = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      before += counts_[i].load(std::memory_order_relaxed);
      if (before > rank) return std::min(middle_of(i), max_ns());
    }
    return max_ns();
  }

 private:
  // Each power of two in 32 steps; the last bucket has all that took longer than 18 minutes.
  static constexpr unsigned kStepBits = 5;
  static constexpr std::uint64_t kSteps = 1 << kStepBits;
  static constexpr unsigned kMaxBits = 40;
  static constexpr std::size_t kBuckets = (kMaxBits - kStepBits + 1) * kSteps;

  static constexpr std::size_t bucket_of(std::uint64_t ns) {
    if (ns < kSteps) return ns;
    const unsigned shift = static_cast<unsigned>(std::bit_width(ns)) - 1 - kStepBits;
    return std::min<std::size_t>((shift + 1) * kSteps + (ns >> shift) - kSteps, kBuckets - 1);
  }
  static constexpr std::uint64_t middle_of(std::size_t bucket) {
    if (bucket < kSteps) return bucket;
    const std::uint64_t shift = bucket / kSteps - 1;
    return ((bucket % kSteps + kSteps) << shift) + ((std::uint64_t{1} << shift) >> 1);
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_ = {};
  std::atomic<std::uint64_t> max_ = 0;
};

}  // namespace volt::uffd
