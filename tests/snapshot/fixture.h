// What the tests of captures and restores share: a store of their own, small guests, and calls
// that throw where something unexpected happens (gtest then fails the test with the reason).
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/capture.h"
#include "snapshot/opened.h"
#include "snapshot/restore.h"
#include "snapshot/store.h"
#include "snapshot/verify.h"
#include "tests/vmm/guest_fixture.h"

namespace volt::test {

using snapshot::Loader;
using snapshot::Sandbox;
using snapshot::Store;

inline constexpr std::uint64_t kMiB = 1 << 20;
inline constexpr std::uint64_t kUnitBytes = formats::kDefaultUnitBytes;

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().context);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

// The error of what has to fail.
template <typename T>
Error must_fail(const Result<T>& result) {
  if (result) throw std::runtime_error("it worked, though it must not");
  return result.error();
}

// The same for other threads, where a throw would end the program.
template <typename T>
void expect_ok(const Result<T>& result) {
  EXPECT_TRUE(result) << (result ? "" : result.error().context);
}

snapshot::Reference named(std::string_view text);  // parsed
bool contains(std::string_view text, std::string_view part);
// VOLT_LONG=1: the long gate.
bool long_run();

// A directory that is gone with everything in it when this is.
class TempDir {
 public:
  TempDir() : TempDir(std::filesystem::temp_directory_path()) {}
  explicit TempDir(const std::filesystem::path& parent);
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Files as tests look at them and damage them.
std::vector<std::byte> read_file(const std::string& path);
void write_file(const std::string& path, std::span<const std::byte> bytes);
void flip_bit(const std::string& path, std::uint64_t bit);
void cut_file(const std::string& path, std::uint64_t bytes);
// The directory of a snapshot.
std::string directory_of(const Store& store, const snapshot::Reference& reference);
// Everything under snapshots/ and names/, as paths relative to the store.
std::vector<std::string> entries_of(const Store& store);

// ---- Guests.
inline constexpr std::uint64_t kSmallRam = 16 * kMiB;
inline constexpr std::uint64_t kPages = 512;  // 2 MiB of working set
inline constexpr std::uint64_t kSeed = 20'24;

vmm::BootConfig kv_config();
vmm::BootConfig echo_config();
std::unique_ptr<Sandbox> boot_guest(const vmm::Kvm& kvm, const vmm::BootConfig& config);
std::unique_ptr<Sandbox> boot_exact_guest(const vmm::Kvm& kvm);

Result<vmm::Reply> call(Sandbox& sandbox, const vmm::Call& call);
Result<vmm::Reply> call(Sandbox& sandbox, Function function,
                        std::initializer_list<std::uint64_t> arguments = {});
guest_abi::HealthReply health(Sandbox& sandbox);
std::uint64_t random_word(Sandbox& sandbox);
// The guest's own sum over its whole working set.
std::uint64_t scan(Sandbox& sandbox);
// What the host says it must be, from the seed alone.
std::uint64_t seeded_scan(std::uint64_t seed = kSeed, std::uint64_t pages = kPages);
// Every byte of a region of guest memory, read from the host.
std::vector<std::byte> memory_of(const Sandbox& sandbox, std::size_t region = 0);

snapshot::Captured capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                           std::string_view name);

// Tests that capture and restore on this machine's KVM.
class SnapshotTest : public KvmTest {
 protected:
  const Store& store() const { return store_; }
  std::unique_ptr<Sandbox> boot_kv() const { return boot_guest(kvm(), kv_config()); }
  std::unique_ptr<Sandbox> boot_echo() const { return boot_guest(kvm(), echo_config()); }
  snapshot::Captured capture(Sandbox& sandbox, std::string_view name) const {
    return test::capture(kvm(), sandbox, store_, name);
  }
  Result<snapshot::Restored> try_restore(std::string_view name, Loader loader = Loader::kMap) const;
  std::unique_ptr<Sandbox> restore(std::string_view name, Loader loader = Loader::kMap) const;
  std::string file(std::string_view name, const char* file) const {
    return directory_of(store_, named(name)) + "/" + file;
  }

 private:
  TempDir dir_;
  Store store_{dir_.path() + "/data"};
};

// The same under each loader.
class EveryLoaderTest : public SnapshotTest, public testing::WithParamInterface<Loader> {
 protected:
  void SetUp() override;
  std::unique_ptr<Sandbox> restore(std::string_view name) const {
    return SnapshotTest::restore(name, GetParam());
  }
};

inline std::string loader_title(const testing::TestParamInfo<Loader>& info) {
  return snapshot::loader_name(info.param);
}

}  // namespace volt::test
