#include "formats/manifest.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <string>
#include <string_view>

#include "formats/field.h"
#include "formats/message.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

// The required features this build can honour: none so far.
constexpr std::span<const std::string_view> kKnownFeatures = {};

constexpr std::size_t kSha256Bytes = 32;
constexpr std::size_t kGenerationBytes = 16;
constexpr std::size_t kMaxNameBytes = 63;
constexpr std::size_t kMaxLabelValueBytes = 255;

constexpr Occurrence kGuestOccurrences[] = {{1, 1, "kind"},        {2, 1, "image_sha256"},
                                            {3, 1, "workload"},    {11, kMaxCalls, "calls"},
                                            {12, 1, "generation"}, {13, 1, "cpu_template"}};
constexpr Occurrence kMemoryOccurrences[] = {
    {1, kMaxRegions, "regions"}, {2, kMaxGaps + kMaxRegions, "data"}, {5, 1, "digest"}};
constexpr Occurrence kCompatibilityOccurrences[] = {{1, 1, "kvm_vendor"},
                                                    {2, 1, "cpu_vendor"},
                                                    {4, 1, "kernel_release"},
                                                    {6, kMaxCpuFeatures, "cpu_features"}};
constexpr Occurrence kOccurrences[] = {
    {1, kMaxFeatures, "required_features"},
    {2, 1, "created_by"},
    {4, 1, "guest", kGuestOccurrences},
    {5, 1, "memory", kMemoryOccurrences},
    {6, 1, "state"},
    {7, 1, "index"},
    {8, 1, "compatibility", kCompatibilityOccurrences},
    {9, kMaxLabels, "labels"},
    {10, 1, "parent"},
};

std::size_t as_size(int count) {
  return static_cast<std::size_t>(count);
}

// A name that people type and error messages repeat.
bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

Result<> check_text(const char* field, const std::string& text, bool may_be_empty = true) {
  if (const char* fault = text_fault(text, kMaxStringBytes)) return corrupt(field, fault);
  if (!may_be_empty && text.empty()) return corrupt(field, "empty");
  return {};
}

Result<> check_bytes(const char* field, const std::string& bytes, std::size_t expected) {
  if (bytes.size() == expected) return {};
  return corrupt(field,
                 join({std::to_string(bytes.size()), " bytes, not ", std::to_string(expected)}));
}

Result<> check_count(const char* field, int count, std::size_t limit) {
  if (as_size(count) <= limit) return {};
  return corrupt(field, join({std::to_string(count), ", at most ", std::to_string(limit)}));
}

template <typename List>
Result<> check_ascending(const char* field, const List& list, std::size_t limit) {
  VOLT_TRY(check_count(field, list.size(), limit));
  for (int i = 1; i < list.size(); ++i) {
    if (list[i - 1] < list[i]) continue;
    return under(field, as_size(i), corrupt("", "not above the one before"));
  }
  return {};
}

Result<> check_features(const Manifest& manifest) {
  VOLT_TRY(check_count("required_features", manifest.required_features_size(), kMaxFeatures));
  for (int i = 0; i < manifest.required_features_size(); ++i) {
    const std::string& name = manifest.required_features(i);
    if (!is_name(name)) {
      return under("required_features", as_size(i), corrupt("", "not 1 to 63 of [a-z0-9._-]"));
    }
    if (std::ranges::find(kKnownFeatures, name) == kKnownFeatures.end()) {
      return under("required_features", as_size(i),
                   bad_field(Code::kUnsupported, "", join({name, ", which this build lacks"})));
    }
  }
  return {};
}

Result<> check_file(bool present, const v1::FileRef& file) {
  if (!present) return corrupt("", "missing");
  if (file.size_bytes() == 0) return corrupt("size_bytes", "zero");
  if (file.size_bytes() > kMaxFileBytes) {
    return corrupt("size_bytes", join({std::to_string(file.size_bytes()), ", at most ",
                                       std::to_string(kMaxFileBytes)}));
  }
  return check_bytes("sha256", file.sha256(), kSha256Bytes);
}

bool is_guest_range(std::uint64_t base, std::uint64_t bytes) {
  return bytes <= kEndOfAddresses && base <= kEndOfAddresses - bytes;
}

Result<> check_guest(const v1::Guest& guest, std::uint64_t memory_bytes) {
  VOLT_TRY(check_text("kind", guest.kind(), false));
  VOLT_TRY(check_bytes("image_sha256", guest.image_sha256(), kSha256Bytes));
  VOLT_TRY(check_text("workload", guest.workload()));
  VOLT_TRY(check_text("cpu_template", guest.cpu_template()));
  if (guest.working_set_bytes() > memory_bytes) {
    return corrupt("working_set_bytes", "more than the memory");
  }
  if (!is_guest_range(guest.working_set_base(), guest.working_set_bytes())) {
    return corrupt("working_set_base", "the range ends beyond 2^52");
  }
  if (guest.mutable_bytes() > memory_bytes) return corrupt("mutable_bytes", "more than the memory");
  if (!is_guest_range(guest.mutable_base(), guest.mutable_bytes())) {
    return corrupt("mutable_base", "the range ends beyond 2^52");
  }
  VOLT_TRY(check_count("calls", guest.calls_size(), kMaxCalls));
  for (int i = 0; i < guest.calls_size(); ++i) {
    VOLT_TRY(under("calls", as_size(i), check_text("", guest.calls(i))));
  }
  return check_bytes("generation", guest.generation(), kGenerationBytes);
}

// One region after `before` (nullptr for the first), with `file_bytes` of the memory file in front.
Result<> check_region(const v1::Region& region, const v1::Region* before, std::uint64_t file_bytes,
                      std::uint64_t unit_bytes) {
  if (region.guest_base() % unit_bytes != 0) {
    return corrupt("guest_base", "not a multiple of unit_bytes");
  }
  if (region.size_bytes() == 0) return corrupt("size_bytes", "zero");
  if (region.size_bytes() % unit_bytes != 0) {
    return corrupt("size_bytes", "not a multiple of unit_bytes");
  }
  if (region.size_bytes() > kMaxMemoryBytes - file_bytes) {
    return corrupt("size_bytes", "more than 64 TiB of memory");
  }
  if (!is_guest_range(region.guest_base(), region.size_bytes())) {
    return corrupt("guest_base", "the region ends beyond 2^52");
  }
  if (before != nullptr && region.guest_base() < before->guest_base()) {
    return corrupt("guest_base", "below the region before");
  }
  if (before != nullptr && region.guest_base() - before->guest_base() < before->size_bytes()) {
    return corrupt("guest_base", "overlaps the region before");
  }
  if (region.file_offset() != file_bytes) {
    return corrupt("file_offset", join({std::to_string(region.file_offset()),
                                        ", the region begins at ", std::to_string(file_bytes)}));
  }
  return {};
}

Result<std::uint64_t> check_regions(const v1::Memory& memory) {
  if (memory.regions().empty()) return corrupt("regions", "none");
  VOLT_TRY(check_count("regions", memory.regions_size(), kMaxRegions));
  std::uint64_t total = 0;
  const v1::Region* before = nullptr;
  for (int i = 0; i < memory.regions_size(); ++i) {
    const v1::Region& region = memory.regions(i);
    VOLT_TRY(
        under("regions", as_size(i), check_region(region, before, total, memory.unit_bytes())));
    total += region.size_bytes();
    before = &region;
  }
  return total;
}

// The region that holds an offset of the memory file.
const v1::Region& region_at(const v1::Memory& memory, std::uint64_t file_offset) {
  const auto after = std::ranges::upper_bound(memory.regions(), file_offset, {},
                                              [](const v1::Region& r) { return r.file_offset(); });
  return *std::prev(after);
}

// `end` is where the extent before ends, `total` where the memory file does.
Result<> check_extent(const v1::Memory& memory, const v1::Extent& extent, std::uint64_t end,
                      std::uint64_t total) {
  if (extent.file_offset() % memory.unit_bytes() != 0) {
    return corrupt("file_offset", "not a multiple of unit_bytes");
  }
  if (extent.size_bytes() == 0) return corrupt("size_bytes", "zero");
  if (extent.size_bytes() % memory.unit_bytes() != 0) {
    return corrupt("size_bytes", "not a multiple of unit_bytes");
  }
  if (extent.file_offset() >= total) return corrupt("file_offset", "beyond the memory file");
  if (extent.size_bytes() > total - extent.file_offset()) {
    return corrupt("size_bytes", "ends beyond the memory file");
  }
  const v1::Region& region = region_at(memory, extent.file_offset());
  if (extent.size_bytes() > region.size_bytes() - (extent.file_offset() - region.file_offset())) {
    return corrupt("size_bytes", "reaches into the next region");
  }
  if (extent.file_offset() < end) return corrupt("file_offset", "not behind the extent before");
  if (extent.file_offset() == end && region.file_offset() != end) {
    return corrupt("file_offset", "touches the extent before");
  }
  return {};
}

// The zero bytes in front of an extent, or behind the last one.
Result<> check_gap(std::uint64_t bytes, std::size_t& gaps) {
  if (bytes == 0) return {};
  if (bytes < kMinGapBytes) return corrupt("data", "leaves out a gap of less than 2 MiB");
  if (++gaps > kMaxGaps) return corrupt("data", "leaves out more than 8 gaps");
  return {};
}

// The bytes in all extents.
Result<std::uint64_t> check_extents(const v1::Memory& memory, std::uint64_t total) {
  VOLT_TRY(check_count("data", memory.data_size(), kMaxGaps + as_size(memory.regions_size())));
  std::uint64_t end = 0;
  std::uint64_t sum = 0;
  std::size_t gaps = 0;
  for (int i = 0; i < memory.data_size(); ++i) {
    const v1::Extent& extent = memory.data(i);
    VOLT_TRY(under("data", as_size(i), check_extent(memory, extent, end, total)));
    VOLT_TRY(check_gap(extent.file_offset() - end, gaps));
    end = extent.file_offset() + extent.size_bytes();
    sum += extent.size_bytes();
  }
  VOLT_TRY(check_gap(total - end, gaps));
  return sum;
}

// Yields the size of the memory, and so of the memory file.
Result<std::uint64_t> check_memory(const v1::Memory& memory) {
  const std::uint64_t unit_bytes = memory.unit_bytes();
  if (!std::has_single_bit(unit_bytes) || unit_bytes < kMinUnitBytes ||
      unit_bytes > kMaxUnitBytes) {
    return corrupt("unit_bytes",
                   join({std::to_string(unit_bytes), ", not a power of two from 4 KiB to 2 MiB"}));
  }
  const std::uint64_t total = VOLT_TRY(check_regions(memory));
  const std::uint64_t data_bytes = VOLT_TRY(check_extents(memory, total));
  if (memory.stored_bytes() % unit_bytes != 0) {
    return corrupt("stored_bytes", "not a multiple of unit_bytes");
  }
  if (memory.stored_bytes() > data_bytes) return corrupt("stored_bytes", "more than is in data");
  VOLT_TRY(check_bytes("digest", memory.digest(), kSha256Bytes));
  return total;
}

Result<> check_compatibility(const v1::Compatibility& needs) {
  VOLT_TRY(check_text("kvm_vendor", needs.kvm_vendor(), false));
  VOLT_TRY(check_text("cpu_vendor", needs.cpu_vendor()));
  VOLT_TRY(check_text("kernel_release", needs.kernel_release()));
  VOLT_TRY(check_ascending("cpu_features", needs.cpu_features(), kMaxCpuFeatures));
  for (int i = 0; i < needs.cpu_features_size(); ++i) {
    VOLT_TRY(under("cpu_features", as_size(i), check_text("", needs.cpu_features(i), false)));
  }
  VOLT_TRY(check_ascending("kvm_capabilities", needs.kvm_capabilities(), kMaxCapabilities));
  return check_ascending("msrs", needs.msrs(), kMaxNeededMsrs);
}

Result<> check_labels(const Manifest& manifest) {
  VOLT_TRY(check_count("labels", manifest.labels_size(), kMaxLabels));
  for (int i = 0; i < manifest.labels_size(); ++i) {
    const v1::Label& label = manifest.labels(i);
    Result<> good = {};
    if (!is_name(label.key())) {
      good = corrupt("key", "not 1 to 63 of [a-z0-9._-]");
    } else if (i > 0 && label.key() <= manifest.labels(i - 1).key()) {
      good = corrupt("key", "not above the one before");
    } else if (const char* fault = text_fault(label.value(), kMaxLabelValueBytes)) {
      good = corrupt("value", fault);
    }
    VOLT_TRY(under("labels", as_size(i), std::move(good)));
  }
  return {};
}

// Features first: whatever else a newer writer means by them, their names are what to report.
Result<> check_manifest(const Manifest& manifest) {
  VOLT_TRY(check_features(manifest));
  VOLT_TRY(check_text("created_by", manifest.created_by()));
  if (!manifest.has_memory()) return corrupt("memory", "missing");
  Result<std::uint64_t> memory_bytes = check_memory(manifest.memory());
  if (!memory_bytes) return under("memory", std::unexpected(std::move(memory_bytes).error()));
  if (!manifest.has_guest()) return corrupt("guest", "missing");
  VOLT_TRY(under("guest", check_guest(manifest.guest(), *memory_bytes)));
  VOLT_TRY(under("state", check_file(manifest.has_state(), manifest.state())));
  VOLT_TRY(under("index", check_file(manifest.has_index(), manifest.index())));
  if (!manifest.has_compatibility()) return corrupt("compatibility", "missing");
  VOLT_TRY(under("compatibility", check_compatibility(manifest.compatibility())));
  VOLT_TRY(check_labels(manifest));
  if (manifest.parent().empty()) return {};
  return check_bytes("parent", manifest.parent(), kSha256Bytes);
}

}  // namespace

Result<> check(const Manifest& manifest) {
  VOLT_TRY_IN("manifest", check_manifest(manifest));
  return {};
}

std::vector<std::byte> encode(const Manifest& manifest) {
  const Result<> good = check(manifest);
  require(good.has_value(), good ? "" : good.error().context.c_str());
  return sealed(FileKind::kManifest, manifest);
}

Result<Manifest> decode_manifest(std::span<const std::byte> file) {
  const std::span<const std::byte> body = VOLT_TRY(unseal(FileKind::kManifest, file, "manifest"));
  Manifest manifest;
  VOLT_TRY_IN("manifest", parse(body, kOccurrences, manifest));
  VOLT_TRY(check(manifest));
  return manifest;
}

}  // namespace volt::formats
