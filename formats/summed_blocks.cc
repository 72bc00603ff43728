#include "formats/summed_blocks.h"

#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr std::size_t kSumBytes = sizeof(Xxh128);

}  // namespace

std::uint64_t summed_bytes(std::uint64_t entries) {
  const std::uint64_t blocks = (entries + kEntriesPerBlock - 1) / kEntriesPerBlock;
  return entries * kBlockEntryBytes + blocks * kSumBytes;
}

std::optional<std::uint64_t> summed_entries(std::uint64_t bytes) {
  const std::uint64_t full = bytes / kBlockBytes * kEntriesPerBlock;
  const std::uint64_t rest = bytes % kBlockBytes;
  if (rest == 0) return full;
  if (rest <= kSumBytes || (rest - kSumBytes) % kBlockEntryBytes != 0) return std::nullopt;
  return full + (rest - kSumBytes) / kBlockEntryBytes;
}

std::uint64_t block_seed(std::span<const std::byte> name) {
  return load<std::uint64_t>(name.data());
}

void write_blocks(std::span<const std::byte> entries, std::uint64_t seed, std::span<std::byte> to) {
  require(entries.size() % kBlockEntryBytes == 0, "blocks: half an entry");
  require(to.size() == summed_bytes(entries.size() / kBlockEntryBytes), "blocks: not their room");
  auto end = to.begin();
  for (std::uint64_t block = 0; !entries.empty(); ++block) {
    const auto bytes = entries.first(std::min(entries.size(), kBlockBytes - kSumBytes));
    end = std::ranges::copy(bytes, end).out;
    end = std::ranges::copy(xxh128(bytes, seed + block), end).out;
    entries = entries.subspan(bytes.size());
  }
}

std::string number_of(const char* what, std::uint64_t i) {
  return join({what, " ", std::to_string(i)});
}

SummedBlocks::SummedBlocks(std::span<const std::byte> bytes, std::uint64_t seed)
    : bytes_(bytes), seed_(seed) {
  const std::optional<std::uint64_t> entries = summed_entries(bytes.size());
  require(entries.has_value(), "blocks: no number of entries takes so many bytes");
  entries_ = *entries;
  checked_ = std::make_unique<std::atomic<bool>[]>(blocks());
}

Result<> SummedBlocks::check_sum(std::uint64_t block) const {
  const std::uint64_t at = block * kBlockBytes;
  const auto bytes = bytes_.subspan(at, std::min<std::uint64_t>(kBlockBytes, bytes_.size() - at));
  const Xxh128 sum = xxh128(bytes.first(bytes.size() - kSumBytes), seed_ + block);
  if (std::ranges::equal(sum, bytes.last(kSumBytes))) return {};
  return fail(Code::kCorrupt,
              join({number_of("block", block),
                    ": sum: bytes changed since it was written, or belong elsewhere"}));
}

}  // namespace volt::formats
