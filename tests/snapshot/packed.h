// What the tests of packed storage share.
#pragma once

#include <sys/stat.h>

#include <random>
#include <string>
#include <vector>

#include "snapshot/packs.h"
#include "snapshot/storage.h"
#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {

inline snapshot::StorageChange pack(const Store& store, std::string_view name,
                                    const snapshot::PackOptions& options = {}) {
  return must(snapshot::pack(store, named(name), options));
}
inline snapshot::StorageChange unpack(const Store& store, std::string_view name) {
  return must(snapshot::unpack(store, named(name), 2));
}

inline Result<> verify_deep(const Store& store, std::string_view name) {
  const auto verified = snapshot::verify(store, named(name), snapshot::Depth::kDeep);
  return verified ? Result<>{} : std::unexpected(verified.error());
}

// What `volt snapshot verify --deep` looks at: every snapshot and every pack.
inline Result<> verify_everything(const Store& store) {
  for (const auto& listed : VOLT_TRY(store.list())) {
    VOLT_TRY(snapshot::verify(store, listed.reference, snapshot::Depth::kDeep));
  }
  return snapshot::verify_packs(store);
}

inline std::vector<std::string> packs_of(const Store& store) {
  return must(directory_entries(store.packs()));
}

inline std::uint64_t disk_bytes(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) throw std::runtime_error("stat " + path);
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

inline std::uint64_t links_of(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) throw std::runtime_error("stat " + path);
  return info.st_nlink;
}

inline std::vector<std::byte> random_bytes(std::uint64_t count, std::uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Words of few letters: what zstd makes half or a third of.
inline std::vector<std::byte> text_bytes(std::uint64_t count, std::uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>('a' + random() % 8);
  return bytes;
}

// Where tests put what they want in a guest's memory: behind everything of its own.
inline constexpr std::uint64_t kSpare = 10 * kMiB;

inline void write_memory(Sandbox& sandbox, std::uint64_t at, std::span<const std::byte> bytes) {
  must(sandbox.machine().memory().write(at, bytes));
}

}  // namespace volt::test
