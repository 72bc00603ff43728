// Archives: a snapshot through a file or a pipe and back, and what damage on the way does.
#include "snapshot/archive.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <thread>

#include "tests/snapshot/child.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using snapshot::Archived;
using snapshot::LoadOptions;
using snapshot::Storage;

class ArchiveTest : public SnapshotTest {
 protected:
  // Where syncing takes no time.
  const Store& other() const { return other_; }
  std::string path() const { return dir_.path() + "/archive.vsnap"; }

  Archived save(const Store& from, std::string_view name, const std::string& path,
                const snapshot::PackOptions& options = {}) const {
    const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
    return must(snapshot::save(from, named(name), file, options));
  }
  Result<Archived> load(std::string_view name, const std::string& path,
                        const LoadOptions& options = {}) const {
    const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
    return snapshot::load(other(), named(name), file, options);
  }
  Result<Archived> load_bytes(std::span<const std::byte> bytes,
                              const LoadOptions& options = {}) const {
    const Fd file{::memfd_create("archive", MFD_CLOEXEC)};
    must(write_all(file, bytes, 0, "archive"));
    return snapshot::load(other(), named("damaged"), file, options);
  }
  void expect_nothing_left() const {
    EXPECT_TRUE(entries_of(other()).empty());
    EXPECT_TRUE(packs_of(other()).empty());
  }

 private:
  TempDir dir_{"/dev/shm"};
  Store other_{dir_.path() + "/data"};
};

TEST_F(ArchiveTest, WhatIsSavedAndLoadedIsTheSameSnapshotHoweverItWasStored) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, text_bytes(kMiB, 1));
  const std::vector<std::byte> memory = memory_of(*guest);
  for (const std::uint64_t unit : {std::uint64_t{4096}, kUnitBytes, 2 * kMiB}) {
    const auto captured =
        must(snapshot::capture(kvm(), *guest, store(), named("kv"), {.unit_bytes = unit}));
    for (const Storage stored : {Storage::kRaw, Storage::kPacked}) {
      if (stored == Storage::kPacked) pack(store(), "kv");
      const Archived saved = save(store(), "kv", path());
      EXPECT_EQ(saved.digest, captured.digest);
      EXPECT_EQ(saved.bytes, std::filesystem::file_size(path()));
      for (const Storage loaded : {Storage::kRaw, Storage::kPacked}) {
        const Archived got = must(load("kv", path(), {.storage = loaded}));
        EXPECT_EQ(got.digest, captured.digest);
        EXPECT_EQ(got.archive, saved.archive);
        EXPECT_EQ(got.units, saved.units);
        EXPECT_EQ(got.bytes, saved.bytes);
        expect_ok(verify_everything(other()));
        auto restored =
            must(snapshot::restore(kvm(), other(), named("kv"), {.loader = Loader::kCopy}));
        EXPECT_EQ(memory_of(*restored.sandbox), memory);
        EXPECT_TRUE(must(snapshot::find_strays(other())).empty());
        must(other().remove(named("kv")));
      }
    }
    must(store().remove(named("kv")));
  }
  expect_nothing_left();
}

TEST_F(ArchiveTest, TheSameSnapshotGivesTheSameBytes) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  write_memory(*guest, kSpare, text_bytes(kMiB, 1));
  capture(*guest, "kv");
  save(store(), "kv", path(), {.threads = 1});
  const auto first = read_file(path());
  save(store(), "kv", path(), {.threads = 5});
  EXPECT_EQ(read_file(path()), first);
  pack(store(), "kv");
  save(store(), "kv", path(), {.threads = 2});
  EXPECT_EQ(read_file(path()), first) << "how it is stored shows in the archive";
}

TEST_F(ArchiveTest, APipeTakesItFromStoreToStore) {
  capture(*boot_kv(), "kv");
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd out{ends[0]};
  std::thread saver([&] {
    const Fd in{ends[1]};
    expect_ok(snapshot::save(store(), named("kv"), in, {}));
  });
  const Result<Archived> loaded =
      snapshot::load(other(), named("kv"), out, {.storage = Storage::kPacked});
  saver.join();
  expect_ok(loaded);
  expect_ok(verify_everything(other()));
}

TEST_F(ArchiveTest, OneArchiveLoadsUnderTwoNames) {
  capture(*boot_kv(), "kv");
  save(store(), "kv", path());
  const Archived one = must(load("one", path(), {.storage = Storage::kPacked}));
  const Archived two = must(load("two", path(), {.storage = Storage::kPacked}));
  EXPECT_EQ(one.digest, two.digest);
  EXPECT_EQ(packs_of(other()).size(), 1U);
  must(load("three", path(), {.storage = Storage::kRaw}));
  EXPECT_EQ(must(other().list()).size(), 3U);
  expect_ok(verify_everything(other()));
  EXPECT_EQ(must_fail(load("one", path())).code, Code::kConflict);
  must(load("one", path(), {.if_taken = Store::IfTaken::kReplace}));
  for (const char* name : {"one", "two", "three"}) must(other().remove(named(name)));
  expect_nothing_left();
}

TEST_F(ArchiveTest, ANameThatIsTakenLeavesNoPackOfTheOneThatWasNotLoaded) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  capture(*guest, "a");
  save(store(), "a", path());
  must(load("taken", path(), {.storage = Storage::kPacked}));
  write_memory(*guest, kSpare, random_bytes(kMiB, 1));
  capture(*guest, "b");
  save(store(), "b", path());
  EXPECT_EQ(must_fail(load("taken", path(), {.storage = Storage::kPacked})).code, Code::kConflict);
  EXPECT_EQ(packs_of(other()).size(), 1U);
  EXPECT_TRUE(must(snapshot::find_strays(other())).empty());
}

TEST_F(ArchiveTest, AnArchiveWithAnotherSumThanToldIsRefused) {
  capture(*boot_kv(), "kv");
  const Archived saved = save(store(), "kv", path());
  LoadOptions options = {.storage = Storage::kPacked, .archive = saved.archive};
  (*options.archive)[5] ^= std::byte{1};
  const Error error = must_fail(load("kv", path(), options));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, formats::to_hex(saved.archive))) << error.context;
  expect_nothing_left();
  options.archive = saved.archive;
  must(load("kv", path(), options));
}

// All of the beginning (heads, manifest, state, index) and of the end; samples between.
TEST_F(ArchiveTest, EveryTruncationAndFlipIsRefusedAndLeavesNothing) {
  capture(*boot_echo(), "echo");
  save(store(), "echo", path());
  const auto whole = read_file(path());
  ASSERT_TRUE(load_bytes(whole));
  must(other().remove(named("damaged")));
  const std::size_t heads = 4'000;
  for (std::size_t at = 0; at < whole.size() && !HasFailure(); ++at) {
    const bool sampled = at < heads ? at % 3 == 0 : whole.size() - at < 200 || at % 997 == 0;
    if (!sampled) continue;
    EXPECT_FALSE(load_bytes(std::span(whole).first(at))) << "cut to " << at;
    auto flipped = whole;
    flipped[at] ^= static_cast<std::byte>(1U << at % 8);
    const LoadOptions options = {.storage = at % 2 == 0 ? Storage::kRaw : Storage::kPacked};
    const auto loaded = load_bytes(flipped, options);
    // A minor version may be anything; the archive's sum is then another.
    if (loaded) {
      ADD_FAILURE() << "flipped byte " << at << " of " << whole.size();
      must(other().remove(named("damaged")));
    }
    if (at % 64 == 0) expect_nothing_left();
  }
  auto longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(load_bytes(longer));
  expect_nothing_left();
}

TEST_F(ArchiveTest, ADamagedSnapshotIsNotSaved) {
  capture(*boot_kv(), "kv");
  flip_bit(file("kv", snapshot::kMemoryFile), (kSmallRam / 2 - kUnitBytes) * 8);
  const Fd file = must(open_at(AT_FDCWD, path().c_str(), O_WRONLY | O_CREAT, 0600));
  EXPECT_EQ(must_fail(snapshot::save(store(), named("kv"), file, {})).code, Code::kCorrupt);
}

}  // namespace
}  // namespace volt::test
