#include "vmm/initramfs.h"

#include <sys/stat.h>

#include <array>
#include <climits>
#include <cstdio>
#include <string_view>

namespace volt::vmm {

namespace {

using Kind = InitramfsEntry::Kind;

constexpr std::string_view kTrailer = "TRAILER!!!";
constexpr std::size_t kFieldCount = 13;
constexpr std::size_t kEntryHeadBytes = 6 + kFieldCount * 8;

std::uint32_t mode_of(const InitramfsEntry& entry) {
  switch (entry.kind) {
    case Kind::kFile:
      return S_IFREG | entry.permissions;
    case Kind::kDirectory:
      return S_IFDIR | entry.permissions;
    case Kind::kSymlink:
      return S_IFLNK | 0777;
    case Kind::kCharDevice:
      return S_IFCHR | entry.permissions;
  }
  return 0;
}

std::span<const std::byte> content_of(const InitramfsEntry& entry) {
  if (entry.kind == Kind::kFile) return entry.bytes;
  if (entry.kind == Kind::kSymlink) return std::as_bytes(std::span(entry.target));
  return {};
}

bool path_fits(std::string_view path) {
  if (path.size() >= PATH_MAX || path == kTrailer || path.contains('\0')) return false;
  for (std::size_t start = 0;;) {
    const std::size_t slash = path.find('/', start);
    const std::string_view part = path.substr(start, slash - start);
    if (part.empty() || part == "." || part == ".." || part.size() > NAME_MAX) return false;
    if (slash == path.npos) return true;
    start = slash + 1;
  }
}

Result<> check(const InitramfsEntry& entry) {
  const std::string name = "initramfs: " + entry.path;
  if (!path_fits(entry.path)) return fail(Code::kInvalid, name + ": no path from the root");
  if ((entry.permissions & ~07777U) != 0) return fail(Code::kInvalid, name + ": permissions");
  if (entry.kind == Kind::kSymlink &&
      (entry.target.empty() || entry.target.size() >= PATH_MAX || entry.target.contains('\0')))
    return fail(Code::kInvalid, name + ": a symlink leads to a path");
  if (content_of(entry).size() > UINT32_MAX) return fail(Code::kInvalid, name + ": over 4 GiB");
  return {};
}

struct Archive {
  std::vector<std::byte> bytes;
  std::uint32_t next_inode = 1;

  void append(std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  void pad() { bytes.resize(bytes.size() + padding_before_initramfs(bytes.size())); }

  void add(const std::string& path, std::uint32_t mode, std::span<const std::byte> content,
           std::uint32_t major, std::uint32_t minor) {
    const auto size = [](std::size_t n) { return static_cast<std::uint32_t>(n); };
    const std::uint32_t links = S_ISDIR(mode) ? 2 : 1;
    const std::array<std::uint32_t, kFieldCount> fields = {mode != 0 ? next_inode++ : 0,
                                                           mode,
                                                           0,
                                                           0,
                                                           links,
                                                           0,
                                                           size(content.size()),
                                                           0,
                                                           0,
                                                           major,
                                                           minor,
                                                           size(path.size() + 1),
                                                           0};
    std::string head = "070701";
    for (const std::uint32_t field : fields) {
      char digits[9];
      std::snprintf(digits, sizeof digits, "%08X", field);
      head += digits;
    }
    append(std::as_bytes(std::span(head)));
    append(std::as_bytes(std::span(path.c_str(), path.size() + 1)));
    pad();
    append(content);
    pad();
  }
};

}  // namespace

std::vector<InitramfsEntry> console_entries() {
  return {{.path = "dev", .kind = Kind::kDirectory},
          {.path = "dev/console",
           .kind = Kind::kCharDevice,
           .permissions = 0600,
           .major = 5,
           .minor = 1}};
}

Result<std::vector<std::byte>> encode_initramfs(std::span<const InitramfsEntry> entries) {
  std::size_t total = 0;
  for (const InitramfsEntry& entry : entries) {
    VOLT_TRY(check(entry));
    total += kEntryHeadBytes + entry.path.size() + content_of(entry).size() + 8;
  }
  Archive archive;
  archive.bytes.reserve(total + kEntryHeadBytes + kTrailer.size() + 8);
  for (const InitramfsEntry& entry : entries) {
    const bool device = entry.kind == Kind::kCharDevice;
    archive.add(entry.path, mode_of(entry), content_of(entry), device ? entry.major : 0,
                device ? entry.minor : 0);
  }
  archive.add(std::string(kTrailer), 0, {}, 0, 0);
  return std::move(archive.bytes);
}

}  // namespace volt::vmm
