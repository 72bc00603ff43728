// One unit as it is stored: a zstd frame, or the unit itself where a frame would not be shorter.
// Which of the two follows from the length alone.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "vmm/os/error.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace volt::snapshot {

// Fast enough to pack at the speed of a disk; higher levels gain little on memory pages.
inline constexpr int kDefaultLevel = 1;
inline constexpr int kMaxLevel = 19;

// For one thread at a time.
class UnitEncoder {
 public:
  explicit UnitEncoder(int level);
  // What to store for `raw`: `into` (at least as long as `raw`) up to what it returns, or 0 where
  // `raw` itself is to be stored.
  Result<std::size_t> encode(std::span<const std::byte> raw, std::span<std::byte> into);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// For one thread at a time.
class UnitDecoder {
 public:
  UnitDecoder();
  // kCorrupt unless `stored` gives exactly `into`.
  Result<> decode(std::span<const std::byte> stored, std::span<std::byte> into);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace volt::snapshot
